package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/nbd"
)

// memory is what was seen of the history, which must never be seen otherwise.
type memory struct {
	ranges [][2]uint64 // as last offered
	points []point
}

// point is what was found at a seq.
type point struct {
	seq  uint64
	tops []uint64
	sum  [sha256.Size]byte
	data [][]byte // of each disk; not kept
	gone bool     // older than the history that is kept
}

// mostPoints is how many points are kept for a later look.
const mostPoints = 60

// keep remembers a point, in place of another one when there are many.
func (m *memory) keep(p point) {
	p.data = nil
	if len(m.points) < mostPoints {
		m.points = append(m.points, p)
		return
	}
	m.points[p.seq%mostPoints] = p
}

// forget drops what is older than the history that is kept.
func (m *memory) forget(first uint64) {
	m.points = slices.DeleteFunc(m.points, func(p point) bool { return p.seq < first })
	m.ranges = slices.DeleteFunc(m.ranges, func(r [2]uint64) bool { return r[1] < first })
	if len(m.ranges) > 0 {
		m.ranges[0][0] = max(m.ranges[0][0], first)
	}
}

// look mounts a point and checks that it is one moment of all three disks; with
// keep it also reads them, but for the wide range of the drizzle.
func (w *world) look(seq uint64, keep bool) point {
	w.t.Helper()
	if keep {
		return w.read(seq, drizzleAt)
	}
	return w.read(seq, 0)
}

// read is look that reads so many bytes of each disk.
func (w *world) read(seq uint64, size int) point {
	w.t.Helper()
	p := point{seq: seq}
	err := w.mounted(seq, func(ctx context.Context, uris []string) (err error) {
		if p.tops, err = rig.VerifyChains(ctx, w.s.depth, uris...); err != nil || size == 0 {
			return err
		}
		h := sha256.New()
		for _, uri := range uris {
			c, err := nbd.Dial(ctx, uri, nbd.DialOptions{})
			if err != nil {
				return err
			}
			defer c.Close()
			data := make([]byte, size)
			if err := c.ReadAt(ctx, data, 0); err != nil {
				return err
			}
			h.Write(data)
			p.data = append(p.data, data)
		}
		h.Sum(p.sum[:0])
		return nil
	})
	switch {
	case err == nil:
	case w.short > 0 && w.status().FirstSeq > seq: // it was dropped just now
		p.gone = true
	default:
		w.t.Fatalf("point %d of %v: %v", seq, w.memory.ranges, err)
	}
	return p
}

func (w *world) mounted(seq uint64, use func(context.Context, []string) error) error {
	return w.api(func(ctx context.Context, c *api.Client) error {
		m, err := c.Mount(ctx, api.MountRequest{Group: "vm", At: fmt.Sprintf("seq:%d", seq)})
		if err != nil {
			return err
		}
		if m.Seq != seq {
			err = fmt.Errorf("the mount is of seq %d", m.Seq)
		} else {
			err = use(ctx, uris(w.t, m, w.q.Nodes()))
		}
		return errors.Join(err, c.Unmount(ctx, m.ID, false))
	})
}

// history checks the points that are offered now: none that were offered are
// missing or changed, and a sample of each range, or of all when thorough, is
// what the VM could have left by crashing.
func (w *world) history(thorough bool) {
	w.t.Helper()
	g := w.status()
	if w.short > 0 {
		w.memory.forget(g.FirstSeq)
	}
	w.stillOffered(g)
	w.memory.ranges = g.Ranges
	begin := max(0, len(g.Ranges)-2)
	if thorough {
		begin = 0
	}
	for i, r := range g.Ranges[begin:] {
		var next uint64
		if i+begin+1 < len(g.Ranges) {
			next = g.Ranges[i+begin+1][0]
		}
		w.sample(r, next)
	}
	if begin > 0 {
		w.sample(g.Ranges[w.rng.IntN(begin)], 0)
	}
	for range min(2, len(w.memory.points)) {
		w.recall(w.memory.points[w.rng.IntN(len(w.memory.points))])
	}
	if thorough {
		for _, p := range w.memory.points {
			w.recall(p)
		}
	}
}

// sample looks at both ends of a range, at seqs in it, and behind it, where
// nothing may be offered before the next range.
func (w *world) sample(r [2]uint64, next uint64) {
	w.t.Helper()
	from, to := r[0], r[1]
	if from > to {
		w.t.Fatalf("range %v", r)
	}
	seqs := map[uint64]bool{from: true, to: true, min(from+1, to): true, max(to-1, from): true, to - min(2, to-from): true}
	for range 3 {
		seqs[from+w.rng.Uint64N(to-from+1)] = true
	}
	for seq := range seqs {
		w.points++
		keep := w.rng.IntN(6) == 0 || len(w.memory.points) == 0
		p := w.look(seq, keep)
		if keep && !p.gone {
			w.memory.keep(p)
		}
	}
	if next > to+1 {
		for _, seq := range []uint64{to + 1, next - 1} {
			if err := w.mounted(seq, func(context.Context, []string) error { return nil }); err == nil {
				w.t.Errorf("seq %d can be mounted, which is between the ranges %v and %d", seq, r, next)
			}
		}
	}
}

// stillOffered checks that the ranges only grew.
func (w *world) stillOffered(g api.GroupStatus) {
	w.t.Helper()
	for _, old := range w.memory.ranges {
		kept := false
		for _, r := range g.Ranges {
			kept = kept || r[0] <= old[0] && r[1] >= old[1]
		}
		if !kept {
			w.t.Errorf("the points %v were offered, and now only %v", old, g.Ranges)
		}
	}
}

// recall checks that a point is as it was.
func (w *world) recall(p point) {
	w.t.Helper()
	if now := w.look(p.seq, true); !now.gone && now.sum != p.sum {
		w.t.Errorf("point %d has changed: its chains were at %v and are at %v", p.seq, p.tops, now.tops)
	}
}

// watched runs f and tells how long it took.
func watched(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}
