package model

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/rephub/rephub/nbd"
)

// Sector is what requests begin and end at, as a guest's do, in bytes.
const Sector = 512

// Load writes at random to volumes, over several connections to each, and
// notes everything in a history.
type Load struct {
	h     *History
	conns [][]*nbd.Client // by volume
	seed  uint64
	runs  atomic.Uint64
}

// NewLoad connects to the volumes' NBD URIs, perVolume times to each.
func NewLoad(ctx context.Context, h *History, seed uint64, perVolume int, uris ...string) (*Load, error) {
	l := &Load{h: h, seed: seed}
	for _, uri := range uris {
		var conns []*nbd.Client
		for range perVolume {
			c, err := nbd.Dial(ctx, uri, nbd.DialOptions{})
			if err != nil {
				return nil, errors.Join(err, l.Close())
			}
			conns = append(conns, c)
		}
		l.conns = append(l.conns, conns)
	}
	return l, nil
}

// Close ends the connections.
func (l *Load) Close() error {
	var errs []error
	for _, conns := range l.conns {
		for _, c := range conns {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// depth is how many requests are under way on one connection.
const depth = 2

// Run makes n random requests on all connections at once, or goes on until stop
// is closed if n is 0. When it returns none is under way.
func (l *Load) Run(ctx context.Context, n int64, stop <-chan struct{}) error {
	var left atomic.Int64
	left.Store(n)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for v, conns := range l.conns {
		for _, c := range conns {
			for range depth {
				rnd := l.rand()
				wg.Go(func() {
					for n == 0 || left.Add(-1) >= 0 {
						select {
						case <-stop:
							return
						default:
						}
						if err := l.one(ctx, rnd, c, v, l.h.Begin); err != nil {
							mu.Lock()
							failed = errors.Join(failed, err)
							mu.Unlock()
							return
						}
					}
				})
			}
		}
	}
	wg.Wait()
	return failed
}

// RunUnrecorded makes n random writes and zeroes one after the other while no
// tap is in place.
func (l *Load) RunUnrecorded(ctx context.Context, n int) error {
	rnd := l.rand()
	for range n {
		v := rnd.IntN(len(l.conns))
		if err := l.one(ctx, rnd, l.conns[v][0], v, l.h.BeginUnrecorded); err != nil {
			return err
		}
	}
	return nil
}

func (l *Load) rand() *rand.Rand { return rand.New(rand.NewPCG(l.seed, l.runs.Add(1))) }

func (l *Load) one(ctx context.Context, rnd *rand.Rand, c *nbd.Client, v int, begin func(int, Kind, int64, int64) *Op) error {
	off, n := extent(rnd, l.h.Sizes[v])
	kind := Write
	switch x := rnd.IntN(10); {
	case x == 0:
		kind = Trim
	case x < 3:
		kind = Zero
	}
	o := begin(v, kind, off, n)
	if o.unrecorded && o.Kind == Trim {
		o.Kind = Zero // without the mirror a discard reaches the image
	}
	var err error
	switch o.Kind {
	case Write:
		p := make([]byte, n)
		o.Fill(p, off)
		err = c.WriteAt(ctx, p, off, 0)
	case Zero:
		err = c.Zero(ctx, off, n, 0)
	case Trim:
		err = c.Trim(ctx, off, n, 0)
	}
	if err != nil {
		return fmt.Errorf("%v: %w", o, err)
	}
	l.h.Done(o)
	return nil
}

// extent is a random place in a volume: mostly small, at times some MiB, often
// in a narrow part of the volume, so that requests overlap.
func extent(rnd *rand.Rand, size int64) (off, n int64) {
	n = 1 + rnd.Int64N(16)
	switch x := rnd.IntN(100); {
	case x == 0:
		n = 1 + rnd.Int64N(6144) // up to 3 MiB, which QEMU cuts for the tap
	case x < 10:
		n = 1 + rnd.Int64N(256)
	case x < 40:
		n = 8 // 4 KiB
	}
	sectors := size / Sector
	n = min(n, sectors)
	room := sectors - n + 1
	if rnd.IntN(2) == 0 {
		room = min(room, 2048)
	}
	return rnd.Int64N(room) * Sector, n * Sector
}
