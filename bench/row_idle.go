package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const (
	idlePerVM  = 8 // volumes of each emulator
	idleFewVMs = 2
	idleMaxVMs = 10
	idleVolume = 64 << 20 // bytes
	idleSettle = 15 * time.Second
)

// idleRow measures what one more protected volume costs when nothing happens:
// the slope between a few and many, so that what a hub needs anyhow is left out.
func idleRow(ctx context.Context, b *bench) error {
	dir := filepath.Join(b.dir, "idle")
	defer os.RemoveAll(dir)
	h, err := startHub(ctx, filepath.Join(dir, "hub"))
	if err != nil {
		return err
	}
	defer h.stop()
	var few, many int64
	for i := range idleMaxVMs {
		e, err := startIdle(ctx, dir, i)
		if err != nil {
			return err
		}
		defer e.stop()
		name := fmt.Sprintf("idle-%d", i)
		if _, err := h.protect(ctx, name, e); err != nil {
			return err
		}
		if i+1 == idleFewVMs {
			if few, err = settledMemory(ctx, h.dir); err != nil {
				return err
			}
		}
	}
	if many, err = settledMemory(ctx, h.dir); err != nil {
		return err
	}
	per := float64(many-few) / float64((idleMaxVMs-idleFewVMs)*idlePerVM) / (1 << 20)
	b.add(result{Name: "idle", What: whatOf("idle"), Unit: "MiB", Ours: []float64{per}, Target: 2,
		Note: fmt.Sprintf("hub, catalog and keeper: %.1f MiB with %d volumes, %.1f MiB with %d", mib(few), idleFewVMs*idlePerVM, mib(many), idleMaxVMs*idlePerVM)})
	return nil
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

func startIdle(ctx context.Context, dir string, i int) (*emulator, error) {
	vmDir := filepath.Join(dir, fmt.Sprintf("vm-%d", i))
	if err := os.MkdirAll(vmDir, 0o755); err != nil {
		return nil, err
	}
	var disks []disk
	for v := range idlePerVM {
		d := disk{node: fmt.Sprintf("vol%d", v), file: filepath.Join(vmDir, fmt.Sprintf("vol%d.raw", v))}
		if err := makeFile(d.file, idleVolume); err != nil {
			return nil, err
		}
		disks = append(disks, d)
	}
	return startQEMU(ctx, vmDir, disks)
}

// settledMemory is the lowest memory of all processes that belong to dir, over
// the last idleSettle without a new low, 90 s at most.
func settledMemory(ctx context.Context, dir string) (int64, error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var low int64
	began := time.Now()
	for since := began; time.Since(since) < idleSettle && time.Since(began) < 90*time.Second; {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
		pids, err := family(dir)
		if err != nil || len(pids) < 2 {
			return 0, fmt.Errorf("found %d processes of the hub, not hub and keeper: %w", len(pids), err)
		}
		var sum int64
		for _, pid := range pids {
			n, err := proportional(pid)
			if err != nil {
				return 0, err
			}
			sum += n
		}
		if low == 0 || sum < low {
			low, since = sum, time.Now()
		}
	}
	return low, nil
}
