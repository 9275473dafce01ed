package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed guest/init
var initScript []byte

// guestTree is where scripts/deps unpacks the Debian packages for the guests.
const guestTree = ".cache/guest"

// modules that the kernel package does not have built in.
var modules = []string{
	"drivers/virtio/virtio_ring", "drivers/virtio/virtio", "drivers/virtio/virtio_pci_modern_dev",
	"drivers/virtio/virtio_pci_legacy_dev", "drivers/virtio/virtio_pci", "drivers/block/virtio_blk",
}

// libraries that mke2fs and e2fsck are linked with.
var libraries = []string{
	"libext2fs.so.2", "libcom_err.so.2", "libblkid.so.1", "libuuid.so.1", "libe2p.so.2", "libc.so.6",
}

// boot is what a guest starts from.
type boot struct {
	kernel, initrd string
}

// makeBoot builds the guests' initramfs in dir: busybox, the virtio modules,
// e2fsprogs and our writer and checker, compiled now.
func makeBoot(ctx context.Context, dir string) (boot, error) {
	root := filepath.Join(dir, "initramfs")
	for _, d := range []string{"bin", "sbin", "modules", "lib/x86_64-linux-gnu", "lib64"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return boot{}, err
		}
	}
	if err := os.WriteFile(filepath.Join(root, "init"), initScript, 0o755); err != nil {
		return boot{}, err
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w",
		"-o", filepath.Join(root, "bin/guest"), "./demo/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOAMD64=v1")
	if out, err := build.CombinedOutput(); err != nil {
		return boot{}, fmt.Errorf("compile the guest's program: %w: %s", err, out)
	}
	files, err := guestFiles()
	if err != nil {
		return boot{}, err
	}
	for to, from := range files {
		if err := copyFile(filepath.Join(root, to), from); err != nil {
			return boot{}, err
		}
	}
	initrd := filepath.Join(dir, "initrd")
	pack := exec.CommandContext(ctx, "sh", "-c", `find . | busybox cpio -o -H newc >"$1" 2>/dev/null`, "sh", initrd)
	pack.Dir = root
	if out, err := pack.CombinedOutput(); err != nil {
		return boot{}, fmt.Errorf("pack the initramfs: %w: %s", err, out)
	}
	return boot{kernel: filepath.Join(guestTree, "vmlinuz"), initrd: initrd}, nil
}

// guestFiles maps paths in the guest to files here.
func guestFiles() (map[string]string, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	files := map[string]string{
		"bin/busybox":                busybox,
		"sbin/mke2fs":                filepath.Join(guestTree, "sbin/mke2fs"),
		"sbin/e2fsck":                filepath.Join(guestTree, "sbin/e2fsck"),
		"lib64/ld-linux-x86-64.so.2": filepath.Join(guestTree, "lib64/ld-linux-x86-64.so.2"),
	}
	for _, lib := range libraries {
		// Newer Debian keeps all libraries below /usr.
		found, _ := filepath.Glob(filepath.Join(guestTree, "usr/lib/x86_64-linux-gnu", lib))
		old, _ := filepath.Glob(filepath.Join(guestTree, "lib/x86_64-linux-gnu", lib))
		found = append(found, old...)
		if len(found) == 0 {
			return nil, fmt.Errorf("library %s is not in %s: run make deps", lib, guestTree)
		}
		files["lib/x86_64-linux-gnu/"+lib] = found[0]
	}
	for _, m := range modules {
		found, err := filepath.Glob(filepath.Join(guestTree, "lib/modules/*/kernel", m+".ko"))
		if err != nil || len(found) != 1 {
			return nil, fmt.Errorf("kernel module %s is not in %s: run make deps", m, guestTree)
		}
		files["modules/"+filepath.Base(found[0])] = found[0]
	}
	return files, nil
}

func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("%w (run make deps)", err)
	}
	mode := os.FileMode(0o644)
	if !strings.HasSuffix(to, ".ko") {
		mode = 0o755
	}
	return os.WriteFile(to, data, mode)
}
