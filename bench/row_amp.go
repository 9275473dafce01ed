package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const (
	ampWrites = 1_000_000 // enough for several index tiers
	ampRate   = 25_000    // writes per second; what any disk can follow
)

// ampRow counts what reaches the disk for each byte that the tap receives. The
// kernel counts, so that nothing is forgotten.
func ampRow(ctx context.Context, b *bench) error {
	dir := filepath.Join(b.dir, "amp")
	defer os.RemoveAll(dir)
	t, err := startTap(dir, tapVolume)
	if err != nil {
		return err
	}
	defer t.end()
	before, err := writtenBytes(t.cmd.Process.Pid)
	if err != nil {
		return err
	}
	m, err := fio(ctx, load{uri: t.uri(), rw: "randwrite", block: 4096, depth: 32, size: tapVolume, count: ampWrites, rate: ampRate})
	if err != nil {
		return err
	}
	if _, err := t.settle(ctx, time.Minute); err != nil {
		return err
	}
	after, err := quietBytes(ctx, t.cmd.Process.Pid)
	if err != nil {
		return err
	}
	if t.void > 0 {
		return fmt.Errorf("%d writes went void: the disk cannot follow %d writes per second", t.void, ampRate)
	}
	b.add(result{Name: "amp", What: whatOf("amp"), Unit: "bytes", Ours: []float64{float64(after-before) / float64(m.total)},
		Target: 1.3, Note: fmt.Sprintf("%d random writes of 4 KiB at depth 32; journal, indexes and their merges, as the kernel counted", m.total/4096)})
	t.end()
	return b.measureRoll(ctx, dir)
}

// quietBytes waits until a process has written nothing for three seconds.
func quietBytes(ctx context.Context, pid int) (int64, error) {
	tick := time.NewTicker(3 * time.Second)
	defer tick.Stop()
	var last int64 = -1
	for {
		n, err := writtenBytes(pid)
		if err != nil || n == last {
			return n, err
		}
		last = n
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
	}
}
