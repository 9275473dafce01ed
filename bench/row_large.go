package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// The load of large writes: more than most disks take, so both sides write to
// memory, and no more than a machine with 16 GB has to spare.
const (
	largeBlock  = 1 << 20
	largeDepth  = 4
	largeWrites = 4096
)

// shares of the peer's speed at which the tap is tried, until one is found at
// which it records everything.
var shares = []float64{1.2, 1, 0.85, 0.7, 0.5, 0.3}

// largeTapRow compares the tap with nbdkit for writes of 1 MiB, both on tmpfs.
// A tap answers as fast as it is asked and goes void when the journal cannot
// follow, so its speed by itself says nothing: what counts is the highest rate
// at which no write goes void. What a disk makes of it is in the note.
func largeTapRow(name string, target float64) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		dir, shm := filepath.Join(b.dir, name), filepath.Join(b.shm, name)
		defer os.RemoveAll(dir)
		defer os.RemoveAll(shm)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.MkdirAll(shm, 0o755)); err != nil {
			return err
		}
		l := load{rw: "randwrite", block: largeBlock, depth: largeDepth, size: tapVolume, count: largeWrites}
		t := tapRuns{dir: shm, load: l}
		ours, peer, err := t.beside(ctx, b, shares)
		if err != nil {
			return err
		}
		l.run = b.seconds
		onDisk := tapRuns{dir: dir, load: l}
		freely, err := onDisk.ours(ctx, unlimited)
		if err != nil {
			return fmt.Errorf("on disk: %w", err)
		}
		b.add(result{Name: name, What: whatOf(name), Unit: "MiB/s", Ours: ours, Peer: peer, PeerIs: "nbdkit file", Target: target, AtLeast: true,
			Note: fmt.Sprintf("the highest rate, in steps from %g to %g of nbdkit's, at which every write was recorded; %s. "+
				"Unlimited and with the journal on the disk: %.5g MiB/s as the VM sees it, %d of %d writes void, that is answered, not recorded, and left to a bitmap sync",
				shares[0], shares[len(shares)-1], t.cpuNote(), freely.iops, freely.void, freely.writes)})
		return nil
	}
}
