// Package boot builds what test guests boot from: a kernel and an initramfs with our writer and checker.
package boot

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed init
var initScript []byte

// tree is where scripts/deps unpacks the Debian packages for the guests, from the module's folder.
const tree = ".cache/guest"

// modules that the kernel package does not have built in.
var modules = []string{
	"drivers/virtio/virtio_ring", "drivers/virtio/virtio", "drivers/virtio/virtio_pci_modern_dev",
	"drivers/virtio/virtio_pci_legacy_dev", "drivers/virtio/virtio_pci", "drivers/block/virtio_blk",
	"drivers/acpi/button", "drivers/input/evdev",
}

// libraries that mke2fs and e2fsck are linked with.
var libraries = []string{
	"libext2fs.so.2", "libcom_err.so.2", "libblkid.so.1", "libuuid.so.1", "libe2p.so.2", "libc.so.6",
}

// Boot is what a guest starts from.
type Boot struct {
	Kernel, Initrd string // files
}

// Make builds the guests' initramfs in dir: busybox, the modules, e2fsprogs and our writer and checker, compiled now. module is the folder with go.mod.
func Make(ctx context.Context, module, dir string) (Boot, error) {
	root := filepath.Join(dir, "initramfs")
	for _, d := range []string{"bin", "sbin", "modules", "lib/x86_64-linux-gnu", "lib64"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return Boot{}, err
		}
	}
	if err := os.WriteFile(filepath.Join(root, "init"), initScript, 0o755); err != nil {
		return Boot{}, err
	}
	exe, err := filepath.Abs(filepath.Join(root, "bin/guest"))
	if err != nil {
		return Boot{}, err
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w",
		"-o", exe, "./demo/guest")
	build.Dir = module
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOAMD64=v1")
	if out, err := build.CombinedOutput(); err != nil {
		return Boot{}, fmt.Errorf("compile the guest's program: %w: %s", err, out)
	}
	files, err := guestFiles(filepath.Join(module, tree))
	if err != nil {
		return Boot{}, err
	}
	for to, from := range files {
		if err := copyFile(filepath.Join(root, to), from); err != nil {
			return Boot{}, err
		}
	}
	initrd := filepath.Join(dir, "initrd")
	absolute, err := filepath.Abs(initrd)
	if err != nil {
		return Boot{}, err
	}
	pack := exec.CommandContext(ctx, "sh", "-c", `find . | busybox cpio -o -H newc >"$1" 2>/dev/null`, "sh", absolute)
	pack.Dir = root
	if out, err := pack.CombinedOutput(); err != nil {
		return Boot{}, fmt.Errorf("pack the initramfs: %w: %s", err, out)
	}
	return Boot{Kernel: filepath.Join(module, tree, "vmlinuz"), Initrd: initrd}, nil
}

// guestFiles maps paths in the guest to files here.
func guestFiles(guestTree string) (map[string]string, error) {
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
