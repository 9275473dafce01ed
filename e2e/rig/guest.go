package rig

import (
	"bufio"
	_ "embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vm/vmtest"
)

//go:embed guest/init
var guestInit []byte

// GuestVM is a QEMU with a real guest: a kernel, ext4 on its one disk, a program
// that writes there all the time, and a guest agent.
type GuestVM struct {
	*vmtest.QEMU
	t      testing.TB
	serial net.Conn
	lines  *bufio.Reader
}

// guestModules are those that the kernel package does not have built in.
var guestModules = []string{
	"drivers/virtio/virtio_ring", "drivers/virtio/virtio", "drivers/virtio/virtio_pci_modern_dev", "drivers/virtio/virtio_pci_legacy_dev",
	"drivers/virtio/virtio_pci", "drivers/block/virtio_blk", "drivers/char/virtio_console",
}

// guestLibraries are what mke2fs and qemu-ga are linked with.
var guestLibraries = []string{
	"libext2fs.so.2", "libcom_err.so.2", "libblkid.so.1", "libuuid.so.1", "libe2p.so.2", "libc.so.6", "libm.so.6",
	"libudev.so.1", "libcap.so.2", "libnuma.so.1", "liburing.so.2", "libglib-2.0.so.0", "libgmodule-2.0.so.0", "libpcre2-8.so.0",
}

// StartGuest boots a guest; with agent, its guest agent runs.
func StartGuest(t testing.TB, name string, agent bool) *GuestVM {
	t.Helper()
	tree, initrd := guestBoot(t)
	dir, err := os.MkdirTemp("", "guest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	serial := filepath.Join(dir, "serial.sock")
	q := vmtest.Start(t, vmtest.Config{
		Dir: dir, Name: name, Machine: "pc", NoServer: true, Disks: []vmtest.Disk{{Node: "data", Device: "virtio-blk-pci"}},
		Args: []string{
			"-accel", "tcg", "-m", "256", "-kernel", filepath.Join(tree, "vmlinuz"), "-initrd", initrd, "-append", "console=ttyS0 quiet",
			"-serial", "file:" + filepath.Join(dir, "console"), "-serial", "unix:" + serial + ",server=on,wait=off",
			"-device", "virtio-serial-pci", "-chardev", "socket,id=qga,path=" + filepath.Join(dir, "qga.sock") + ",server=on,wait=off",
			"-device", "virtserialport,chardev=qga,name=org.qemu.guest_agent.0",
		},
	})
	g := &GuestVM{QEMU: q, t: t}
	if g.serial, err = net.Dial("unix", serial); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = g.serial.Close()
		if t.Failed() {
			console, _ := os.ReadFile(filepath.Join(dir, "console"))
			t.Logf("console of guest %s:\n%s", name, console)
		}
	})
	g.lines = bufio.NewReader(g.serial)
	q.Must("cont", nil, nil)
	g.answer("its start")
	if agent {
		g.Run("agent")
		Eventually(t, "the guest agent runs", time.Minute, func() error {
			if !g.agentRuns() {
				return fmt.Errorf("its port is not open: %s", g.Run("busybox ps | busybox grep qemu-ga; ls /dev"))
			}
			return nil
		})
	}
	return g
}

func (g *GuestVM) agentRuns() bool {
	var all []struct {
		Label string `json:"label"`
		Open  bool   `json:"frontend-open"`
	}
	g.Must("query-chardev", nil, &all)
	for _, c := range all {
		if c.Label == "qga" {
			return c.Open
		}
	}
	return false
}

// Run runs a line in the guest's shell and returns what it printed.
func (g *GuestVM) Run(line string) string {
	g.t.Helper()
	if _, err := fmt.Fprintln(g.serial, line); err != nil {
		g.t.Fatalf("guest: %v", err)
	}
	return g.answer(line)
}

// answer reads what comes in up to the end of a line's output.
func (g *GuestVM) answer(line string) string {
	g.t.Helper()
	_ = g.serial.SetDeadline(time.Now().Add(2 * time.Minute))
	var out strings.Builder
	for {
		got, err := g.lines.ReadString('\n')
		if err != nil {
			g.t.Fatalf("the guest does not answer to %s: %v; so far %q", line, err, out.String())
		}
		if got = strings.TrimRight(got, "\r\n"); got == "=" {
			return strings.TrimSpace(out.String())
		}
		out.WriteString(got + "\n")
	}
}

// Frozen tells whether the program in the guest waits because its file system is frozen.
func (g *GuestVM) Frozen() bool {
	g.t.Helper()
	return strings.Contains(g.Run("for p in /proc/[0-9]*; do busybox cat $p/wchan; echo; done 2>/dev/null"), "percpu_rwsem_wait")
}

// Count is how far the program has got.
func (g *GuestVM) Count() (n int) {
	g.t.Helper()
	_, _ = fmt.Sscan(g.Run("busybox cat /run/count"), &n)
	return n
}

// Writes waits until the program has written once more from now on.
func (g *GuestVM) Writes() {
	g.t.Helper()
	before := g.Count()
	Eventually(g.t, "the guest writes", time.Minute, func() error {
		if n := g.Count(); n <= before+1 { // one may have been on its way
			return fmt.Errorf("it has got no further than %d", n)
		}
		return nil
	})
}

// guestBoot makes the guests' initramfs, once per test binary.
func guestBoot(t testing.TB) (tree, initrd string) {
	t.Helper()
	boot, err := makeBoot()
	if err != nil {
		t.Fatal(err)
	}
	return boot[0], boot[1]
}

var makeBoot = sync.OnceValues(func() (boot [2]string, err error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return boot, fmt.Errorf("find the module: %w", err)
	}
	module := strings.TrimSpace(string(out))
	tree := filepath.Join(module, ".cache", "guest")
	initrd := filepath.Join(module, "bin", "guest-e2e.initrd")
	root, err := os.MkdirTemp("", "initramfs")
	if err != nil {
		return boot, err
	}
	defer os.RemoveAll(root)
	files, err := guestFiles(tree)
	if err != nil {
		return boot, err
	}
	for to, from := range files {
		to = filepath.Join(root, to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return boot, err
		}
		if err := exec.Command("cp", "-L", from, to).Run(); err != nil {
			return boot, fmt.Errorf("copy %s: %w (run make deps)", from, err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "init"), guestInit, 0o755); err != nil {
		return boot, err
	}
	pack := exec.Command("sh", "-c", `find . | busybox cpio -o -H newc >"$1" 2>/dev/null`, "sh", initrd)
	pack.Dir = root
	if msg, err := pack.CombinedOutput(); err != nil {
		return boot, fmt.Errorf("pack the initramfs: %w: %s", err, msg)
	}
	return [2]string{tree, initrd}, nil
})

// guestFiles maps paths in the guest to files here.
func guestFiles(tree string) (map[string]string, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	files := map[string]string{
		"bin/busybox": busybox, "sbin/mke2fs": filepath.Join(tree, "sbin/mke2fs"), "sbin/qemu-ga": filepath.Join(tree, "usr/sbin/qemu-ga"),
		"lib64/ld-linux-x86-64.so.2": filepath.Join(tree, "lib64/ld-linux-x86-64.so.2"),
	}
	one := func(to string, patterns ...string) error {
		for _, p := range patterns {
			if found, _ := filepath.Glob(filepath.Join(tree, p)); len(found) > 0 {
				files[to] = found[0]
				return nil
			}
		}
		return fmt.Errorf("%s is not in %s: run make deps", to, tree)
	}
	for _, lib := range guestLibraries { // newer Debian keeps all libraries below /usr
		if err := one("lib/x86_64-linux-gnu/"+lib, "usr/lib/x86_64-linux-gnu/"+lib, "lib/x86_64-linux-gnu/"+lib); err != nil {
			return nil, err
		}
	}
	for _, m := range guestModules {
		if err := one("modules/"+filepath.Base(m)+".ko", "lib/modules/*/kernel/"+m+".ko"); err != nil {
			return nil, err
		}
	}
	return files, nil
}
