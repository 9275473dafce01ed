package sync

import (
	"context"
	"io"
	"iter"
	"sync/atomic"

	"github.com/rephub/rephub/block"
)

// Windows of a bitmap or compare sync, in bytes: from minWindow on the block
// status is asked, at most compareWindow at a time, which also bounds how long
// the stream must remember the tap's writes for one ticket.
const (
	minWindow     = 4 << 20
	compareWindow = 256 << 20
)

// holer is a replica's device that knows its holes.
type holer interface {
	Extents(off, n int64) ([]block.Extent, error)
}

// Ranges commits the blocks of the dirty ranges in which source and replica
// differ. dirty yields ascending, disjoint ranges of bitmaps that are disabled.
func Ranges(ctx context.Context, src Source, current block.Device, dirty iter.Seq2[block.Range, error], stream Stream, opt RangesOptions) error {
	size, err := start(src, &opt.Options)
	if err != nil {
		return err
	}
	if opt.Total == 0 {
		opt.Total = size
	}
	return compare(ctx, src, current, dirty, stream, &opt.Options, opt.Total)
}

// Compare commits every block in which source and replica differ. Holes on both
// sides are skipped unread.
func Compare(ctx context.Context, src Source, current block.Device, stream Stream, opt Options) error {
	size, err := start(src, &opt)
	if err != nil {
		return err
	}
	whole := func(yield func(block.Range, error) bool) { yield(block.Range{Len: size}, nil) }
	return compare(ctx, src, current, whole, stream, &opt, size)
}

func compare(ctx context.Context, src Source, current block.Device, dirty iter.Seq2[block.Range, error], stream Stream, opt *Options, total int64) error {
	if got := current.Size(); got != opt.Size {
		return &SizeError{Volume: opt.Volume, What: "replica", Want: opt.Size, Got: got}
	}
	c := &comparer{src: src, current: current, stream: stream, opt: opt, meter: newMeter(opt, 0, total)}
	c.holes, _ = current.(holer)
	err := pipeline(ctx, opt.Requests, func(ctx context.Context, emit func(piece) error) error {
		return c.produce(ctx, dirty, emit)
	}, func(ctx context.Context) func(piece) error {
		a, b := make([]byte, opt.RequestSize), make([]byte, opt.RequestSize)
		return func(p piece) error { return c.step(ctx, p, a, b) }
	})
	c.endAll()
	return name(err, src, opt)
}

// comparer is one run of Ranges or Compare.
type comparer struct {
	src     Source
	current block.Device
	holes   holer
	stream  Stream
	opt     *Options
	meter   *meter
	windows openWindows
}

// window is a part of the volume whose block status was asked under a ticket:
// its holes may be committed under that ticket only.
type window struct {
	ticket Ticket
	refs   atomic.Int32 // pieces under way, and the producer
}

// produce emits the pieces of the dirty ranges.
func (c *comparer) produce(ctx context.Context, dirty iter.Seq2[block.Range, error], emit func(piece) error) error {
	step := int64(c.opt.RequestSize)
	for r, err := range dirty {
		if err != nil {
			return &Error{Op: "ask dirty ranges", Off: r.Off, Len: r.Len, Err: err}
		}
		r = r.Intersect(block.Range{Len: c.opt.Size})
		err = split(r, compareWindow, func(r block.Range) error {
			if r.Len >= minWindow {
				return c.window(ctx, r, emit)
			}
			return split(r, step, func(r block.Range) error { return emit(piece{Range: r}) })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// window asks the source for the holes of r, after the ticket, and emits pieces.
func (c *comparer) window(ctx context.Context, r block.Range, emit func(piece) error) error {
	w := &window{ticket: c.stream.Begin(r)}
	w.refs.Store(1)
	c.windows.add(w)
	defer c.release(w)
	return allocation(ctx, c.src, r, func(e block.Extent) error {
		if e.Hole {
			w.refs.Add(1)
			return emit(piece{Range: e.Range(), hole: true, win: w})
		}
		return split(e.Range(), int64(c.opt.RequestSize), func(r block.Range) error { return emit(piece{Range: r}) })
	})
}

func (c *comparer) release(w *window) {
	if w.refs.Add(-1) == 0 && c.windows.remove(w) {
		c.stream.End(w.ticket)
	}
}

// endAll ends the tickets of windows whose pieces were never worked on, after
// an error.
func (c *comparer) endAll() {
	for _, w := range c.windows.takeAll() {
		c.stream.End(w.ticket)
	}
}

// step brings one piece up to the source.
func (c *comparer) step(ctx context.Context, p piece, a, b []byte) error {
	if p.hole {
		copied, err := c.hole(ctx, p, b)
		c.release(p.win)
		if err == nil {
			c.meter.add(p.Len, copied)
		}
		return err
	}
	t := c.stream.Begin(p.Range)
	defer c.stream.End(t)
	a, b = a[:p.Len], b[:p.Len]
	if err := c.src.ReadAt(ctx, a, p.Off); err != nil {
		return &Error{Op: "read source", Off: p.Off, Len: p.Len, Err: err}
	}
	if err := c.readCurrent(b, p.Off); err != nil {
		return err
	}
	var copied int64
	err := eachRun(a, b, p.Off, diffKind, func(r run) error {
		switch r.kind {
		case skip:
			return nil
		case zero:
			r.data = nil
		case data:
			copied += r.Len
		}
		return wrap("commit", r.Range, c.stream.Commit(ctx, t, r.Range, r.data))
	})
	if err == nil {
		c.meter.add(p.Len, copied)
	}
	return err
}

// hole commits zeroes where the replica has something else and the source a hole.
func (c *comparer) hole(ctx context.Context, p piece, b []byte) (int64, error) {
	return 0, c.eachData(p.Range, func(r block.Range) error {
		return split(r, int64(len(b)), func(r block.Range) error {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			b := b[:r.Len]
			if err := c.readCurrent(b, r.Off); err != nil {
				return err
			}
			return eachRun(b, nil, r.Off, zeroKind, func(x run) error {
				if x.kind == zero {
					return nil
				}
				return wrap("commit", x.Range, c.stream.Commit(ctx, p.win.ticket, x.Range, nil))
			})
		})
	})
}

// eachData visits the parts of r that the replica does not know to be holes.
func (c *comparer) eachData(r block.Range, visit func(block.Range) error) error {
	if c.holes == nil {
		return visit(r)
	}
	for at := r.Off; at < r.End(); {
		extents, err := c.holes.Extents(at, r.End()-at)
		if err != nil {
			return &Error{Op: "ask replica for holes", Off: at, Len: r.End() - at, Err: err}
		}
		before := at
		for _, e := range extents {
			x := e.Range().Intersect(block.Range{Off: at, Len: r.End() - at})
			if x.Off != at || x.Empty() {
				continue
			}
			at = x.End()
			if e.Hole {
				continue
			}
			if err := visit(x); err != nil {
				return err
			}
		}
		if at == before {
			return visit(block.Range{Off: at, Len: r.End() - at})
		}
	}
	return nil
}

// readCurrent fills b from the replica.
func (c *comparer) readCurrent(b []byte, off int64) error {
	n, err := c.current.ReadAt(b, off)
	if n == len(b) && (err == nil || err == io.EOF) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return &Error{Op: "read replica", Off: off, Len: int64(len(b)), Err: err}
}
