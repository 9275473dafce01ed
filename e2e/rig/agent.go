package rig

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vm/vmtest"
)

// FreePort is an address on loopback where nobody listens.
func FreePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Agent is an agent for some QEMUs, with everything in one folder. It can be
// killed and started again; the folder goes with the test.
type Agent struct {
	t    testing.TB
	exe  string
	Dir  string
	args []string

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
}

// NewAgent joins a hub that listens for agents at addr, and starts.
func NewAgent(t testing.TB, h *Hub, addr, name string, vms []*vmtest.QEMU, args ...string) *Agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "riga")
	if err != nil {
		t.Fatal(err)
	}
	return NewAgentIn(t, dir, h, addr, name, vms, args...)
}

// NewAgentIn is NewAgent with its data below dir, which goes with the test.
func NewAgentIn(t testing.TB, dir string, h *Hub, addr, name string, vms []*vmtest.QEMU, args ...string) *Agent {
	t.Helper()
	exe, err := build()
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{t: t, exe: exe, Dir: dir}
	a.args = append([]string{"agent", "--data", filepath.Join(dir, "data"), "--hub", addr, "--name", name}, args...)
	for _, q := range vms {
		socket := strings.TrimPrefix(q.QMP, "unix:")
		base := strings.TrimSuffix(filepath.Base(socket), filepath.Ext(socket))
		a.args = append(a.args, "--qmp-glob", socket, "--nbd-server", base+"="+q.NBDServer)
	}
	t.Cleanup(a.cleanup)
	token := strings.TrimSpace(h.Must("token", "create"))
	a.Start("--join", token)
	return a
}

// Start starts the agent and waits until the hub knows that it is there.
func (a *Agent) Start(args ...string) {
	a.t.Helper()
	log, err := os.OpenFile(filepath.Join(a.Dir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		a.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(a.exe, append(a.args[:len(a.args):len(a.args)], args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	a.mu.Lock()
	a.cmd, a.exited = cmd, exited
	a.mu.Unlock()
}

// Kill kills the agent where it stands; its keeper is a process of its own.
func (a *Agent) Kill() {
	_ = a.cmd.Process.Kill()
	<-a.exited
}

// Stop ends the agent in order; it must exit with status 0.
func (a *Agent) Stop() {
	a.t.Helper()
	_ = a.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-a.exited:
	case <-time.After(time.Minute):
		a.t.Fatalf("the agent does not end:\n%s", a.Log())
	}
	if code := a.cmd.ProcessState.ExitCode(); code != 0 {
		a.t.Errorf("the agent ended with %s:\n%s", a.cmd.ProcessState, a.Log())
	}
}

// PID is the agent's process.
func (a *Agent) PID() int { return a.cmd.Process.Pid }

// Signal sends the agent a signal.
func (a *Agent) Signal(s syscall.Signal) { _ = a.cmd.Process.Signal(s) }

// Log is what the agent has printed.
func (a *Agent) Log() string {
	p, err := os.ReadFile(filepath.Join(a.Dir, "agent.log"))
	if err != nil {
		return err.Error()
	}
	return string(p)
}

// Keepers are the processes of the agent's tap keeper.
func (a *Agent) Keepers() []int {
	var pids []int
	for _, pid := range processes(a.exe, filepath.Join(a.Dir, "data")) {
		if pid != a.PID() {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (a *Agent) cleanup() {
	if a.t.Failed() {
		a.t.Logf("the agent's log:\n%s", a.Log())
	}
	if a.cmd != nil {
		a.Kill()
	}
	for _, pid := range processes(a.exe, filepath.Join(a.Dir, "data")) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err := os.RemoveAll(a.Dir); err != nil {
		a.t.Errorf("remove the agent's folder: %v", err)
	}
}
