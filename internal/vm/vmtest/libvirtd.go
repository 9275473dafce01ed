package vmtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
)

// unprivileged runs libvirtd and its QEMUs when the test is root: only a daemon
// that is not root keeps all of its state where XDG_* say.
const unprivileged = 65534

// Libvirtd is a libvirt daemon of the test's own, with nothing on it, that runs as
// another user than root: so do its QEMUs.
type Libvirtd struct {
	*Process
	Dir string // of the daemon's user
	// URI of the daemon, for package libvirt.
	URI string

	t   testing.TB
	lib *golibvirt.Libvirt
}

// StartLibvirtd starts a daemon and waits until it answers. It and the domains end
// with the test.
func StartLibvirtd(t testing.TB) *Libvirtd {
	t.Helper()
	l := &Libvirtd{t: t, Dir: shortDir(t)}
	l.URI = "qemu:///session?socket=" + filepath.Join(l.Dir, "run", "libvirt-sock")
	for _, dir := range []string{"run", "home", "config/libvirt", "cache", "data", "images"} {
		if err := os.MkdirAll(filepath.Join(l.Dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// No second daemon for logs, and none that frees memory on its own.
	l.write("config/libvirt/qemu.conf", "stdio_handler = \"file\"\nsecurity_driver = \"none\"\n")
	l.write("libvirtd.conf", fmt.Sprintf("unix_sock_dir = %q\nauth_unix_rw = \"none\"\nlog_outputs = \"3:stderr\"\n", filepath.Join(l.Dir, "run")))
	l.give(".", "run", "home", "config", "config/libvirt", "cache", "data", "images")
	l.guard()
	l.Restart()
	return l
}

func (l *Libvirtd) write(name, text string) {
	l.t.Helper()
	if err := os.WriteFile(filepath.Join(l.Dir, name), []byte(text), 0o644); err != nil {
		l.t.Fatal(err)
	}
}

// give makes files the daemon's user's.
func (l *Libvirtd) give(names ...string) {
	l.t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	for _, name := range names {
		if err := os.Chown(filepath.Join(l.Dir, name), unprivileged, unprivileged); err != nil {
			l.t.Fatal(err)
		}
	}
}

// guard kills the daemon's QEMUs, which are nobody's children, when the test is
// over, also if it was killed.
func (l *Libvirtd) guard() {
	l.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `cat; for f in "$0"/run/libvirt/qemu/run/*.pid; do kill -9 "$(cat "$f")"; done 2>/dev/null`, l.Dir)
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	r.Close()
	l.t.Cleanup(func() {
		w.Close()
		cmd.Wait()
	})
}

// Restart kills the daemon, if it runs, and starts another one. Domains go on.
func (l *Libvirtd) Restart() {
	l.t.Helper()
	if l.Process != nil {
		l.Process.Kill()
	}
	in := func(name string) string { return filepath.Join(l.Dir, name) }
	cmd := exec.Command("/usr/sbin/libvirtd", "-f", in("libvirtd.conf"))
	cmd.Dir = l.Dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/usr/bin", "HOME=" + in("home"), "XDG_RUNTIME_DIR=" + in("run"),
		"XDG_CONFIG_HOME=" + in("config"), "XDG_CACHE_HOME=" + in("cache"), "XDG_DATA_HOME=" + in("data")}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: unprivileged, Gid: unprivileged}}
	}
	l.Process = start(l.t, "libvirtd", cmd)
	l.connect()
}

// connect waits until the daemon answers on a connection of the harness's own.
func (l *Libvirtd) connect() {
	l.t.Helper()
	socket := filepath.Join(l.Dir, "run", "libvirt-sock")
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			l.lib = golibvirt.NewWithDialer(dialers.NewAlreadyConnected(conn))
			if err := l.lib.ConnectToURI("qemu:///session"); err != nil {
				l.t.Fatalf("connect to libvirtd: %v; it said: %s", err, l.Stderr())
			}
			l.t.Cleanup(func() { conn.Close() })
			l.listen()
			return
		}
		select {
		case <-tick.C:
		case <-l.Done():
			l.t.Fatalf("libvirtd ended and said: %s", l.Stderr())
		case <-ctx.Done():
			l.t.Fatalf("libvirtd does not listen: %v; it said: %s", err, l.Stderr())
		}
	}
}

// listen keeps a listener for events that is never gone while a test runs: libvirt
// can go deaf when the last one leaves (see docs/qemu.md).
func (l *Libvirtd) listen() {
	l.t.Helper()
	events, err := l.lib.LifecycleEvents(context.WithoutCancel(l.t.Context()))
	if err != nil {
		l.t.Fatalf("listen to libvirtd: %v", err)
	}
	go func() {
		for range events {
		}
	}()
}

// Lib is the harness's own connection to the daemon that runs now.
func (l *Libvirtd) Lib() *golibvirt.Libvirt { return l.lib }

// pid of a domain's QEMU; ok is false when it does not run.
func (l *Libvirtd) pid(domain string) (pid int, ok bool) {
	b, err := os.ReadFile(filepath.Join(l.Dir, "run/libvirt/qemu/run", domain+".pid"))
	if err == nil {
		_, err = fmt.Sscan(strings.TrimSpace(string(b)), &pid)
	}
	return pid, err == nil
}
