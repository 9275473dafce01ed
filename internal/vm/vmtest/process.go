// Package vmtest starts real QEMUs and NBD servers for tests of any package,
// so that what is tested against is what users run.
//
// Everything started ends with the test, and with the test binary if that is
// killed. Nothing is waited for by time: sockets listen before the processes
// that serve them are started, but for the monitor of the code under test.
package vmtest

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Process is a child in a process group of its own.
type Process struct {
	Name   string
	pid    int
	stderr lockedBuffer
	ended  chan struct{}
	err    error // of Wait, once ended is closed
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// start runs cmd until the test ends. What it says on standard error is
// logged when the test fails.
func start(t testing.TB, name string, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{Name: name, ended: make(chan struct{})}
	cmd.Stderr = &p.stderr
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
	started := make(chan error, 1)
	go func() {
		// The death signal comes when this thread ends, so it has to last.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.ended)
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s ended with %v and said: %s", name, p.err, p.stderr.String())
		}
	})
	return p
}

// PID is the process id.
func (p *Process) PID() int { return p.pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.ended }

// Alive says whether the process still runs.
func (p *Process) Alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Wait waits for the end of the process, for ever; the error is nil when it
// ended by itself and well.
func (p *Process) Wait() error {
	<-p.ended
	return p.err
}

// Stderr is what the process has said so far.
func (p *Process) Stderr() string { return p.stderr.String() }

// Kill kills the process group and waits for its end. It may be called twice.
func (p *Process) Kill() {
	if p.Alive() {
		syscall.Kill(-p.pid, syscall.SIGKILL)
	}
	<-p.ended
}

// Freeze stops the process in its tracks (SIGSTOP): it hangs but lives.
func (p *Process) Freeze() { syscall.Kill(-p.pid, syscall.SIGSTOP) }

// Thaw lets a frozen process go on.
func (p *Process) Thaw() { syscall.Kill(-p.pid, syscall.SIGCONT) }

// listen makes a listening unix socket to be inherited by one process.
func listen(t testing.TB, path string) *os.File {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	f, err := l.File()
	if err == nil {
		err = os.Chmod(path, 0o666) // like the keeper's
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// bind makes a unix socket on which its heir is the first to listen: before, whoever
// connects is refused, and never takes this process for QEMU.
func bind(t testing.TB, path string) *os.File {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	if err == nil {
		err = os.Chmod(path, 0o666) // like the keeper's
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// shortDir is a directory whose path leaves room for a socket's name, and that
// QEMUs of other users can go through: t.TempDir holds the test's name and can be
// too long.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// NBDKit is an nbdkit server on a unix socket.
type NBDKit struct {
	*Process
	Socket string
}

// StartNBDKit starts nbdkit with args (plugin and parameters, filters first).
// The memory plugin answers to any export name.
func StartNBDKit(t testing.TB, args ...string) *NBDKit {
	t.Helper()
	k := &NBDKit{Socket: filepath.Join(shortDir(t), "nbd")}
	f := listen(t, k.Socket)
	defer f.Close()
	cmd := exec.Command("sh", append([]string{"-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec nbdkit -f "$@"`, "nbdkit"}, args...)...)
	cmd.ExtraFiles = []*os.File{f}
	k.Process = start(t, "nbdkit", cmd)
	return k
}

// URI is the server's default export.
func (k *NBDKit) URI() string { return "nbd+unix:///?socket=" + k.Socket }

// Run starts any program, argv[0], until the test ends.
func Run(t testing.TB, argv ...string) *Process {
	t.Helper()
	return start(t, filepath.Base(argv[0]), exec.Command(argv[0], argv[1:]...))
}
