package main

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// agent is "rephub agent" with everything below one folder.
type agent struct {
	*server
	dir string
}

// freePort is an address on loopback where nobody listens.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// startAgent joins a hub that agents reach at addr, and waits until the hub sees
// the emulators' VMs, which are named after their folders.
func startAgent(ctx context.Context, dir string, h *hub, addr string, vms ...*emulator) (*agent, error) {
	token, err := exec.CommandContext(ctx, binary, "token", "create", "--hub", h.address()).Output()
	if err != nil {
		return nil, fmt.Errorf("make a join token: %w: %s", err, stderrOf(err))
	}
	args := []string{"agent", "--data", filepath.Join(dir, "data"), "--hub", addr, "--name", filepath.Base(dir), "--join", strings.TrimSpace(string(token))}
	for _, e := range vms {
		args = append(args, "--qmp-glob", e.qmp, "--nbd-server", e.vm()+"=unix:"+e.socket)
	}
	a := &agent{dir: dir}
	if a.server, err = start(binary, args...); err != nil {
		return nil, err
	}
	err = a.until(ctx, 20*time.Second, "show its VMs to the hub", func() bool {
		var l struct {
			VMs []struct {
				Name      string
				Reachable bool
			}
		}
		if err := h.cli(ctx, &l, "vm", "list"); err != nil {
			return false
		}
		n := 0
		for _, m := range l.VMs {
			if m.Reachable {
				n++
			}
		}
		return n >= len(vms)
	})
	if err != nil {
		a.end()
		return nil, err
	}
	return a, nil
}

// end stops the agent and the keeper that it leaves running on purpose. Emulators
// must have ended.
func (a *agent) end() {
	a.stop()
	left, _ := family(a.dir)
	for _, pid := range left {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}
