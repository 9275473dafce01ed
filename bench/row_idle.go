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
	// Go collects garbage at least every two minutes and gives the pages back
	// after that.
	idleSettle = 150 * time.Second
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
	defer h.end()
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

// settledMemory is the memory of all processes that belong to dir: the median
// of the last twenty seconds of idleSettle.
func settledMemory(ctx context.Context, dir string) (int64, error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var last []float64
	for began := time.Now(); time.Since(began) < idleSettle; {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
		if time.Since(began) < idleSettle-20*time.Second {
			continue
		}
		sum, err := familyMemory(dir)
		if err != nil {
			return 0, err
		}
		last = append(last, float64(sum))
	}
	return int64(median(last)), nil
}

func familyMemory(dir string) (int64, error) {
	pids, err := family(dir)
	if err != nil {
		return 0, err
	}
	if len(pids) < 2 {
		return 0, fmt.Errorf("found %d processes, not hub and keeper", len(pids))
	}
	var sum int64
	for _, pid := range pids {
		n, err := proportional(pid)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}
