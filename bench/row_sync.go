package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const (
	syncVolume = 8 << 30  // bytes
	syncPiece  = 16 << 20 // data and holes take turns in pieces of this size
)

// syncRow compares "rephub protect --wait" of a volume with nbdcopy of the same
// QEMU export to a file. rephub says protected when the copy is durable, so
// nbdcopy is asked to flush too.
func syncRow(ctx context.Context, b *bench) error {
	dir := filepath.Join(b.dir, "sync")
	defer os.RemoveAll(dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	source := filepath.Join(dir, "source.raw")
	if err := makeHalfEmpty(source); err != nil {
		return err
	}
	h, err := startHub(ctx, filepath.Join(dir, "hub"))
	if err != nil {
		return err
	}
	defer h.end()
	e, err := startQEMU(ctx, filepath.Join(dir, "qemu"), []disk{{"vol", source}})
	if err != nil {
		return err
	}
	defer e.stop()
	var unflushed []float64
	count := 0
	speed := func(d time.Duration) float64 { return syncVolume / d.Seconds() / (1 << 20) }
	ours, peer, err := b.inTurns(
		func() (float64, error) {
			count++
			name := fmt.Sprintf("sync-%d", count)
			took, err := h.protect(ctx, name, e)
			if err == nil {
				err = h.unprotect(ctx, name)
			}
			return speed(took), err
		},
		func() (float64, error) {
			fast, err := nbdcopy(ctx, dir, e)
			if err != nil {
				return 0, err
			}
			unflushed = append(unflushed, speed(fast))
			took, err := nbdcopy(ctx, dir, e, "--flush")
			return speed(took), err
		})
	if err != nil {
		return err
	}
	b.add(result{Name: "sync", What: whatOf("sync"), Unit: "MiB/s", Ours: ours, Peer: peer, PeerIs: "nbdcopy --flush",
		Target: 0.8, AtLeast: true,
		Note: fmt.Sprintf("of volume, holes included; nbdcopy without --flush, which leaves the copy in memory: %.5g MiB/s", median(unflushed))})
	return nil
}

func nbdcopy(ctx context.Context, dir string, e *emulator, args ...string) (time.Duration, error) {
	file := filepath.Join(dir, "copy.raw")
	defer os.Remove(file)
	began := time.Now()
	out, err := exec.CommandContext(ctx, "nbdcopy", append(args, unixURI(e.socket, "vol"), file)...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("nbdcopy: %w: %s", err, out)
	}
	return time.Since(began), nil
}

// makeHalfEmpty makes the source: every second piece is data, the others are
// holes.
func makeHalfEmpty(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(syncVolume); err != nil {
		return err
	}
	r := rand.NewChaCha8([32]byte{1})
	p := make([]byte, syncPiece)
	for off := int64(0); off < syncVolume; off += 2 * syncPiece {
		_, _ = r.Read(p)
		if _, err := f.WriteAt(p, off); err != nil {
			return err
		}
	}
	return errors.Join(f.Sync(), f.Close())
}
