package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

const (
	busyVolumes = 16
	busyVolume  = 256 << 20 // bytes
)

// agentMemoryRow is the most anonymous memory that an agent takes while 16 VMs
// write at once.
func agentMemoryRow(ctx context.Context, b *bench) error {
	dir := filepath.Join(b.dir, "agent-mem")
	defer os.RemoveAll(dir)
	h, err := newHost(ctx, dir, busyVolumes, oneDisk(busyVolume), nil)
	if err != nil {
		return err
	}
	defer h.end()
	if err := h.protect(ctx); err != nil {
		return err
	}
	var most []float64
	for range b.runs {
		m, err := busyMemory(ctx, b, h)
		if err != nil {
			return err
		}
		most = append(most, m)
	}
	b.add(result{Name: "agent-mem", What: whatOf("agent-mem"), Unit: "MiB", Ours: most, Target: 256,
		Note: "anonymous memory at its highest; rings and indexes are mapped files"})
	return nil
}

func busyMemory(ctx context.Context, b *bench, h *host) (float64, error) {
	done, ended := context.WithCancel(ctx)
	errs := make([]error, len(h.vms))
	go func() {
		defer ended()
		var wg sync.WaitGroup
		for i, e := range h.vms {
			wg.Go(func() {
				_, errs[i] = fio(ctx, load{uri: unixURI(e.socket, "vol"), rw: "randwrite", block: 64 << 10, depth: 4, size: busyVolume, bytes: 8 << 20, run: b.seconds})
			})
		}
		wg.Wait()
	}()
	var most int64
	var err error
	everyTick(done, rpoPace*10, func() {
		n, merr := anonymous(h.agent.cmd.Process.Pid)
		if merr != nil {
			err = merr
		}
		most = max(most, n)
	})
	for _, e := range errs {
		if e != nil {
			return 0, e
		}
	}
	if err == nil && most == 0 {
		err = fmt.Errorf("no memory was seen")
	}
	return mib(most), err
}
