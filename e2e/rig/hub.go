// Package rig holds what the end-to-end tests stand on: a real hub behind the
// real command line, and a load whose writes depend on each other across disks.
// QEMUs come from internal/vm/vmtest.
package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// build compiles the program once per test binary, as "make build" would.
var build = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	root := strings.TrimSpace(string(out))
	exe := filepath.Join(root, "bin", "rephub-e2e")
	cmd := exec.Command("go", "build", "-trimpath", "-o", exe, "./cmd/rephub")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build rephub: %w: %s", err, msg)
	}
	return exe, nil
})

// Hub is a hub with everything in one folder. It can be killed and started
// again; the folder goes with the test.
type Hub struct {
	daemon
	Dir  string   // holds sockets and log, and data unless that is elsewhere
	args []string // of every start
}

// NewHub starts a hub in a folder of its own.
func NewHub(t testing.TB) *Hub {
	t.Helper()
	// Short, because paths of unix sockets are at most 107 bytes.
	dir, err := os.MkdirTemp("", "rig")
	if err != nil {
		t.Fatal(err)
	}
	return NewHubIn(t, dir)
}

// NewHubIn starts a hub in dir, which is removed with the test.
func NewHubIn(t testing.TB, dir string) *Hub {
	t.Helper()
	return newHub(t, dir, filepath.Join(dir, "data"))
}

// NewHubOn starts a hub whose data is on a disk of its own.
func NewHubOn(t testing.TB, d *Disk) *Hub {
	t.Helper()
	dir, err := os.MkdirTemp("", "rig")
	if err != nil {
		t.Fatal(err)
	}
	return newHub(t, dir, filepath.Join(d.Dir, "data"))
}

// NewHubForAgents starts a hub in a folder of its own that listens for agents on
// its side of a network. Its data is on a disk of its own, unless d is nil.
func NewHubForAgents(t testing.TB, n *Network, d *Disk) *Hub {
	t.Helper()
	dir, err := os.MkdirTemp("", "rig")
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	if d != nil {
		data = filepath.Join(d.Dir, "data")
	}
	return startHub(t, &Hub{Dir: dir, daemon: daemon{data: data, net: n.Hub}, args: []string{"--agents", n.HubListen}})
}

func newHub(t testing.TB, dir, data string) *Hub {
	t.Helper()
	return startHub(t, &Hub{Dir: dir, daemon: daemon{data: data}})
}

func startHub(t testing.TB, h *Hub) *Hub {
	t.Helper()
	exe, err := build()
	if err != nil {
		t.Fatal(err)
	}
	h.t, h.name, h.exe, h.log = t, "the hub", exe, logIn(h.Dir, "hub")
	t.Cleanup(h.cleanup)
	h.Start()
	return h
}

// Address is where the hub's API is.
func (h *Hub) Address() string { return "unix:" + filepath.Join(h.Dir, "api.sock") }

// Metrics is what Prometheus would get.
func (h *Hub) Metrics() string {
	h.t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(h.Address(), "unix:"))
	}}}
	resp, err := c.Get("http://hub/metrics")
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	p, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		h.t.Fatalf("metrics: %s, %v", resp.Status, err)
	}
	return string(p)
}

// Start starts the hub and waits until it answers.
func (h *Hub) Start(args ...string) {
	h.t.Helper()
	h.Launch(args...)
	h.Eventually("the hub answers", time.Minute, func() error {
		select {
		case <-h.exited:
			h.t.Fatalf("the hub ended:\n%s", h.Log())
		default:
		}
		_, err := h.CLI("status", "-o", "json")
		return err
	})
}

// Launch starts the hub and does not wait.
func (h *Hub) Launch(args ...string) {
	h.t.Helper()
	all := append([]string{"hub", "--data", h.Data(), "--nbd", "unix:" + filepath.Join(h.Dir, "mounts.sock"), "--api", h.Address()}, h.args...)
	h.launch(append(all, args...)...)
}

// KillAll kills the hub and all that it has started, as a power loss does.
func (h *Hub) KillAll() {
	h.t.Helper()
	h.Kill()
	h.Eventually("all of the hub's processes are gone", 20*time.Second, func() error {
		pids := h.Processes()
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(pids) > 0 {
			return fmt.Errorf("%v are left", pids)
		}
		return nil
	})
}

// Freeze stops the hub in its tracks, Thaw lets it go on.
func (h *Hub) Freeze() { h.Signal(syscall.SIGSTOP) }

// FreezeAll is a Freeze that waits until nothing of the hub runs any more.
func (h *Hub) FreezeAll() {
	h.t.Helper()
	h.Freeze()
	h.Eventually("every thread of the hub is stopped", 20*time.Second, func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", h.PID()))
		for _, name := range threads {
			stat, rerr := os.ReadFile(name)
			_, after, _ := strings.Cut(string(stat), ") ") // behind the name
			if rerr == nil && !strings.HasPrefix(after, "T") {
				err = errors.New(string(stat))
			}
		}
		return err
	})
}

// Thaw is the end of Freeze.
func (h *Hub) Thaw() { h.Signal(syscall.SIGCONT) }

// cleanup ends everything that works in the hub's folder and fails the test
// for what did not go by itself.
func (h *Hub) cleanup() {
	if h.t.Failed() {
		h.t.Logf("log of the hub:\n%s", h.Log())
	}
	if h.cmd == nil {
		return // it did not even start
	}
	_ = h.cmd.Process.Signal(syscall.SIGCONT)
	_ = h.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-h.exited:
	case <-time.After(30 * time.Second):
		h.t.Error("the hub did not stop")
		_ = h.cmd.Process.Kill()
		<-h.exited
	}
	for _, p := range h.Processes() {
		_ = syscall.Kill(p, syscall.SIGKILL) // keepers of taps that outlive the test
	}
	if err := os.RemoveAll(h.Dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		h.t.Errorf("remove the hub's folder: %v", err)
	}
}

// processes of a program that have a folder in their command line.
func processes(exe, dir string) []int {
	var pids []int
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil || !bytes.HasPrefix(data, []byte(exe+"\x00")) || !bytes.Contains(data, []byte(dir)) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(name, "/proc/%d/", &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// CLI runs a command of the command line; the error has what it printed to
// standard error.
func (h *Hub) CLI(args ...string) (stdout string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var out, msg bytes.Buffer
	cmd := exec.CommandContext(ctx, h.exe, args...)
	cmd.Env = append(os.Environ(), "REPHUB_HUB="+h.Address())
	cmd.Stdout, cmd.Stderr = &out, &msg
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("rephub %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(msg.String()))
	}
	return out.String(), nil
}

// Must runs a command that has to succeed.
func (h *Hub) Must(args ...string) string {
	h.t.Helper()
	out, err := h.CLI(args...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// JSON runs a command with -o json and decodes what it prints.
func (h *Hub) JSON(into any, args ...string) {
	h.t.Helper()
	out := h.Must(append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		h.t.Fatalf("output of rephub %s: %v\n%s", args[0], err, out)
	}
}
