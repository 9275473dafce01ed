package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace without a name: it goes when the last process
// in it and the last handle on it are gone, whoever was killed.
type Namespace struct{ handle *os.File }

func newNamespace(t testing.TB) *Namespace {
	t.Helper()
	type made struct {
		handle *os.File
		err    error
	}
	done := make(chan made)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with this goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		var f *os.File
		if err == nil {
			f, err = os.Open("/proc/thread-self/ns/net")
		}
		done <- made{f, err}
	}()
	m := <-done
	if m.err != nil {
		t.Fatalf("make a network namespace: %v", m.err)
	}
	t.Cleanup(func() { m.handle.Close() })
	n := &Namespace{m.handle}
	n.ip(t, nil, "link", "set", "lo", "up")
	return n
}

// Do calls f with the namespace as that of its thread: of sockets that f makes
// and of processes that it starts. Without a namespace it only calls f.
func (n *Namespace) Do(f func() error) (err error) {
	if n == nil {
		return f()
	}
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer own.Close()
	if err := unix.Setns(int(n.handle.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	defer func() {
		back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET)
		if back == nil {
			runtime.UnlockOSThread() // else the thread is of no use any more
		}
		err = errors.Join(err, back)
	}()
	return f()
}

// ip runs the command in the namespace; peer is its file 3.
func (n *Namespace) ip(t testing.TB, peer *Namespace, args ...string) {
	t.Helper()
	cmd := exec.Command("ip", args...)
	if peer != nil {
		cmd.ExtraFiles = []*os.File{peer.handle}
	}
	var out []byte
	err := n.Do(func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("ip %q: %v: %s", args, err, out)
	}
}

// Network is a hub's and a host's network, joined by a proxy of ours and by
// nothing else.
type Network struct {
	Hub, Host *Namespace
	Proxy     *Proxy
	HubListen string // where the hub listens for agents, in its namespace
	AgentDial string // where agents find it, in theirs
	between   *Namespace
}

// NewNetwork makes the three namespaces: of the hub, of the host, and of what is
// between them, where the proxy is.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	between := newNamespace(t)
	n := &Network{Hub: newNamespace(t), Host: newNamespace(t), HubListen: "10.77.2.2:7711", AgentDial: "10.77.1.1:7711", between: between}
	for _, v := range []struct {
		end       *Namespace
		name      string
		here, far string
	}{{n.Host, "host", "10.77.1.1/24", "10.77.1.2/24"}, {n.Hub, "hub", "10.77.2.1/24", "10.77.2.2/24"}} {
		between.ip(t, v.end, "link", "add", v.name, "type", "veth", "peer", "name", "net", "netns", "/proc/self/fd/3")
		between.ip(t, nil, "addr", "add", v.here, "dev", v.name)
		between.ip(t, nil, "link", "set", v.name, "up")
		v.end.ip(t, nil, "addr", "add", v.far, "dev", "net")
		v.end.ip(t, nil, "link", "set", "net", "up")
	}
	n.join(t)
	return n
}

// Back is the same network for the other direction: the hub is where the host was, and the agents where the hub was.
func (n *Network) Back(t testing.TB) *Network {
	t.Helper()
	back := &Network{Hub: n.Host, Host: n.Hub, HubListen: "10.77.1.2:7712", AgentDial: "10.77.2.1:7712", between: n.between}
	back.join(t)
	return back
}

// join makes the proxy.
func (n *Network) join(t testing.TB) {
	t.Helper()
	var l net.Listener
	err := n.between.Do(func() (err error) {
		l, err = net.Listen("tcp", n.AgentDial)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	n.Proxy = NewProxy(l, func(ctx context.Context) (conn net.Conn, err error) {
		err = n.between.Do(func() (err error) {
			conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", n.HubListen)
			return err
		})
		return conn, err
	})
	t.Cleanup(n.Proxy.Close)
}

// Start starts a command in the namespace, which dies with the test; a nil one is the test's own.
func (n *Namespace) Start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return n.Do(cmd.Start)
}
