package rig

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

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
	daemon
	dir  string   // of the log and the data
	args []string // of every start
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
	a := &Agent{dir: dir, daemon: daemon{t: t, name: "the agent", exe: exe, data: filepath.Join(dir, "data"), log: logIn(dir, "agent"), net: n.Host}}
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
	a.launch(append(a.args[:len(a.args):len(a.args)], args...)...)
}

// Run runs the program on the agent's host and returns what it printed.
func (a *Agent) Run(args ...string) (string, error) {
	out, err := exec.Command(a.exe, args...).CombinedOutput()
	return string(out), err
}

// Keeper is the process of the agent's tap keeper.
func (a *Agent) Keeper() (int, error) {
	pids := a.Processes()
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
	for _, pid := range a.Processes() {
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
