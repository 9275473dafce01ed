package rig

import (
	"errors"
	"fmt"
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

// AgentConfig of an Agent.
type AgentConfig struct {
	Name string
	VMs  []*vmtest.QEMU
	Args []string // further ones, of every start
	// Spools holds what it keeps of groups; without it that is in its own folder.
	Spools *Disk
}

// Agent is an agent for some QEMUs. It can be killed and started again; its
// folder goes with the test.
type Agent struct {
	t    testing.TB
	exe  string
	dir  string // of the log and the data
	data string
	net  *Namespace
	args []string // of every start

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
}

// NewAgent joins a hub on the other side of a network, and starts.
func NewAgent(t testing.TB, h *Hub, n *Network, cfg AgentConfig) *Agent {
	t.Helper()
	exe, err := build()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "rig")
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{t: t, exe: exe, dir: dir, data: filepath.Join(dir, "data"), net: n.Host}
	if cfg.Spools != nil {
		groups := filepath.Join(cfg.Spools.Dir, "groups")
		if err := errors.Join(os.Mkdir(a.data, 0o755), os.Mkdir(groups, 0o700), os.Symlink(groups, filepath.Join(a.data, "groups"))); err != nil {
			t.Fatal(err)
		}
	}
	a.args = append([]string{"agent", "--data", a.data, "--hub", n.AgentDial, "--name", cfg.Name}, cfg.Args...)
	for _, q := range cfg.VMs {
		socket := strings.TrimPrefix(q.QMP, "unix:")
		base := strings.TrimSuffix(filepath.Base(socket), filepath.Ext(socket))
		a.args = append(a.args, "--qmp-glob", socket, "--nbd-server", base+"="+q.NBDServer)
	}
	t.Cleanup(a.cleanup)
	a.Start("--join", strings.TrimSpace(h.Must("token", "create")))
	return a
}

// Start starts the agent, with some more arguments this time, and does not wait.
func (a *Agent) Start(args ...string) {
	a.t.Helper()
	log, err := os.OpenFile(filepath.Join(a.dir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		a.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(a.exe, append(a.args[:len(a.args):len(a.args)], args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := a.net.start(cmd); err != nil {
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
	a.Signal(syscall.SIGTERM)
	select {
	case <-a.exited:
	case <-time.After(time.Minute):
		a.t.Fatal("the agent does not end")
	}
	if code := a.cmd.ProcessState.ExitCode(); code != 0 {
		a.t.Errorf("the agent ended with %s", a.cmd.ProcessState)
	}
}

// Data is the agent's data folder.
func (a *Agent) Data() string { return a.data }

// PID is the agent's process.
func (a *Agent) PID() int { return a.cmd.Process.Pid }

// Signal sends the agent a signal.
func (a *Agent) Signal(s syscall.Signal) {
	a.t.Helper()
	if err := a.cmd.Process.Signal(s); err != nil {
		a.t.Fatalf("signal the agent: %v", err)
	}
}

// Log is what the agent has printed.
func (a *Agent) Log() string {
	p, err := os.ReadFile(filepath.Join(a.dir, "agent.log"))
	if err != nil {
		return err.Error()
	}
	return string(p)
}

// Keeper is the process of the agent's tap keeper.
func (a *Agent) Keeper() (int, error) {
	pids := processes(a.exe, a.data)
	for _, pid := range pids {
		if pid != a.PID() {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("no keeper among the agent's processes %v", pids)
}

// KillAll kills agent and keeper, as a power loss does.
func (a *Agent) KillAll() {
	a.Kill()
	for _, pid := range processes(a.exe, a.data) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func (a *Agent) cleanup() {
	if a.t.Failed() {
		a.t.Logf("log of the agent:\n%s", a.Log())
	}
	if a.cmd != nil {
		a.KillAll()
	}
	if err := os.RemoveAll(a.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		a.t.Errorf("remove the agent's folder: %v", err)
	}
}
