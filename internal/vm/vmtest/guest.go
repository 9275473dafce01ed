package vmtest

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed guest/init
var guestInit []byte

// What a test guest needs of the unpacked packages: modules that the kernel does not have built in, and the libraries of the guest agent.
var (
	guestModules = []string{
		"drivers/virtio/virtio_ring", "drivers/virtio/virtio", "drivers/virtio/virtio_pci_modern_dev", "drivers/virtio/virtio_pci_legacy_dev",
		"drivers/virtio/virtio_pci", "drivers/char/virtio_console",
	}
	guestLibraries = []string{
		"libudev.so.1", "libnuma.so.1", "liburing.so.2", "libglib-2.0.so.0", "libgmodule-2.0.so.0", "libm.so.6", "libc.so.6", "libpcre2-8.so.0",
	}
)

// Guest makes a real guest in dir: a Linux kernel, and an initramfs that says "login:" on its first serial line and on its screen, and runs the QEMU guest agent if it has a port. It needs
// what make deps unpacks.
func Guest(dir string) (kernel, initrd string, err error) {
	tree, err := guestTree()
	if err != nil {
		return "", "", err
	}
	root := filepath.Join(dir, "initramfs")
	for _, d := range []string{"bin", "sbin", "modules", "lib/x86_64-linux-gnu", "lib64"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return "", "", err
		}
	}
	if err := os.WriteFile(filepath.Join(root, "init"), guestInit, 0o755); err != nil {
		return "", "", err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", "", err
	}
	files := map[string]string{"bin/busybox": busybox, "sbin/qemu-ga": "usr/sbin/qemu-ga", "lib64/ld-linux-x86-64.so.2": "lib64/ld-linux-x86-64.so.2"}
	for _, m := range guestModules {
		files["modules/"+filepath.Base(m)+".ko"] = "lib/modules/*/kernel/" + m + ".ko"
	}
	for _, l := range guestLibraries {
		files["lib/x86_64-linux-gnu/"+l] = "{usr/,}lib/x86_64-linux-gnu/" + l
	}
	for to, from := range files {
		if err := copyGuestFile(filepath.Join(root, to), tree, from); err != nil {
			return "", "", err
		}
	}
	initrd = filepath.Join(dir, "initrd")
	pack := exec.Command("sh", "-c", `find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 >"$1"`, "sh", initrd)
	pack.Dir = root
	if out, err := pack.CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("pack the guest's initramfs: %w: %s", err, out)
	}
	return filepath.Join(tree, "vmlinuz"), initrd, nil
}

// guestTree is where scripts/deps unpacks packages for guests.
func guestTree() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		tree := filepath.Join(dir, ".cache/guest")
		if _, err := os.Stat(filepath.Join(tree, "complete")); err == nil {
			return tree, nil
		}
	}
	return "", fmt.Errorf("no packages for guests are unpacked: run make deps")
}

// copyGuestFile copies the one file that matches; braces and a comma in the pattern are two places.
func copyGuestFile(to, tree, from string) error {
	places := []string{from}
	if rest, ok := strings.CutPrefix(from, "{usr/,}"); ok {
		places = []string{"usr/" + rest, rest}
	}
	for _, p := range places {
		if !filepath.IsAbs(p) {
			p = filepath.Join(tree, p)
		}
		found, err := filepath.Glob(p)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			continue
		}
		data, err := os.ReadFile(found[0])
		if err != nil {
			return err
		}
		return os.WriteFile(to, data, 0o755)
	}
	return fmt.Errorf("%s is not in %s: run make deps", from, tree)
}
