package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// host is emulators behind an agent, with a hub of their own.
type host struct {
	hub   *hub
	agent *agent
	vms   []*emulator
	dir   string
}

// newHost starts n emulators with the disks that make gives them, and an agent
// that reaches the hub at reach, which gets the hub's own address; nil: directly.
func newHost(ctx context.Context, dir string, n int, disks func(vm int, dir string) ([]disk, error), reach func(addr string) (string, error)) (h *host, err error) {
	h = &host{dir: dir}
	defer func() {
		if err != nil {
			h.end()
		}
	}()
	addr, err := freePort()
	if err != nil {
		return h, err
	}
	if h.hub, err = startHub(ctx, filepath.Join(dir, "hub"), "--agents", addr); err != nil {
		return h, err
	}
	if reach != nil {
		if addr, err = reach(addr); err != nil {
			return h, err
		}
	}
	for i := range n {
		vmDir := filepath.Join(dir, fmt.Sprintf("vm%d", i))
		if err := os.MkdirAll(vmDir, 0o755); err != nil {
			return h, err
		}
		d, err := disks(i, vmDir)
		if err != nil {
			return h, err
		}
		e, err := startQEMU(ctx, vmDir, d)
		if err != nil {
			return h, err
		}
		h.vms = append(h.vms, e)
	}
	h.agent, err = startAgent(ctx, filepath.Join(dir, "agent"), h.hub, addr, h.vms...)
	return h, err
}

// protect makes one group of each VM, named like it.
func (h *host) protect(ctx context.Context) error {
	for _, e := range h.vms {
		if err := h.hub.cli(ctx, nil, "protect", e.vm(), "--wait"); err != nil {
			return err
		}
	}
	return nil
}

func (h *host) end() {
	for _, e := range h.vms {
		e.stop()
	}
	if h.agent != nil {
		h.agent.end()
	}
	if h.hub != nil {
		h.hub.end()
	}
}

// oneDisk is a sparse volume "vol" of a size.
func oneDisk(size int64) func(int, string) ([]disk, error) {
	return func(_ int, dir string) ([]disk, error) {
		d := disk{node: "vol", file: filepath.Join(dir, "vol.raw")}
		return []disk{d}, makeFile(d.file, size)
	}
}
