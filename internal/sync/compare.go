package sync

import (
	"context"
	"errors"
	"fmt"
	"iter"
	stdsync "sync"
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

// remoteWorkers compare with a replica elsewhere: most of them wait for an
// answer, and Options.Requests of them at most read. Each has a ticket open, and
// a tap write looks at every one, so there are not more.
const remoteWorkers = 64

// shortPiece is the length of the small buffers, in bytes: many dirty ranges are
// short.
const shortPiece = 64 << 10

// Ranges commits the blocks of the dirty ranges in which source and replica
// differ. dirty yields ascending, disjoint ranges of bitmaps that are disabled;
// they are widened to whole blocks.
func Ranges(ctx context.Context, src Source, current Current, dirty iter.Seq2[block.Range, error], stream Stream, opt RangesOptions) error {
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
func Compare(ctx context.Context, src Source, current Current, stream Stream, opt Options) error {
	size, err := start(src, &opt)
	if err != nil {
		return err
	}
	whole := func(yield func(block.Range, error) bool) { yield(block.Range{Len: size}, nil) }
	return compare(ctx, src, current, whole, stream, &opt, size)
}

func compare(ctx context.Context, src Source, current Current, dirty iter.Seq2[block.Range, error], stream Stream, opt *Options, total int64) error {
	if got := current.Size(); got != opt.Size {
		return &SizeError{Volume: opt.Volume, What: "replica", Want: opt.Size, Got: got}
	}
	workers := opt.Requests
	if _, far := current.(*remote); far {
		workers = max(workers, min(remoteWorkers, maxBuffers/opt.RequestSize))
	}
	c := &comparer{
		src: src, current: current, stream: stream, opt: opt, meter: newMeter(opt, 0, total),
		reads: make(chan struct{}, opt.Requests),
		short: stdsync.Pool{New: makeBuffers(shortPiece)}, long: stdsync.Pool{New: makeBuffers(opt.RequestSize)},
	}
	err := pipeline(ctx, workers, func(ctx context.Context, emit func(piece) error) error {
		return c.produce(ctx, dirty, emit)
	}, func(ctx context.Context) func(piece) error {
		w := &compareWorker{comparer: c}
		return func(p piece) error { return w.step(ctx, p) }
	})
	c.endAll()
	return name(err, src, opt)
}

// comparer is one run of Ranges or Compare.
type comparer struct {
	src     Source
	current Current
	stream  Stream
	opt     *Options
	meter   *meter
	reads   chan struct{} // one for every read in flight
	windows openWindows
	// Buffers of the two lengths. They are pooled, so that the one used is likely
	// to be in a processor's cache: a worker each would make many more of them.
	short, long stdsync.Pool
}

func (c *comparer) bufferPool(n int64) *stdsync.Pool {
	if n <= shortPiece {
		return &c.short
	}
	return &c.long
}

func makeBuffers(size int) func() any {
	return func() any { b := make([]byte, size); return &b }
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
		r = blocksOf(r).Intersect(block.Range{Len: c.opt.Size})
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
	at := r.Off
	return allocation(ctx, c.src, r, func(e block.Extent) error {
		x := block.Range{Off: at, Len: blockEnd(e, r.End()) - at}
		if x.Empty() {
			return nil
		}
		at = x.End()
		if e.Hole {
			w.refs.Add(1)
			return emit(piece{Range: x, hole: true, win: w})
		}
		return split(x, int64(c.opt.RequestSize), func(r block.Range) error { return emit(piece{Range: r}) })
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

// compareWorker is one worker of a comparer.
type compareWorker struct {
	*comparer
	ranges []block.Range
}

// step brings one piece up to the source.
func (w *compareWorker) step(ctx context.Context, p piece) error {
	if p.hole {
		err := w.hole(ctx, p)
		w.release(p.win)
		if err == nil {
			w.meter.add(p.Len, 0)
		}
		return err
	}
	select {
	case w.reads <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	pool := w.bufferPool(p.Len)
	buf := pool.Get().(*[]byte)
	defer pool.Put(buf)
	data := (*buf)[:p.Len]
	t := w.stream.Begin(p.Range)
	defer w.stream.End(t)
	err := w.src.ReadAt(ctx, data, p.Off)
	<-w.reads
	if err != nil {
		return &Error{Op: "read source", Off: p.Off, Len: p.Len, Err: err}
	}
	if err := w.differing(ctx, p.Range, data); err != nil {
		return err
	}
	var copied int64
	for _, d := range w.ranges {
		part := data[d.Off-p.Off : d.End()-p.Off]
		if err := eachRun(part, nil, d.Off, zeroKind, func(r run) error {
			if r.kind == zero {
				r.data = nil
			} else {
				copied += r.Len
			}
			return wrap("commit", r.Range, w.stream.Commit(ctx, t, r.Range, r.data))
		}); err != nil {
			return err
		}
	}
	w.meter.add(p.Len, copied)
	return nil
}

// hole commits zeroes where the replica has something else and the source a hole.
func (w *compareWorker) hole(ctx context.Context, p piece) error {
	if err := w.differing(ctx, p.Range, nil); err != nil {
		return err
	}
	for _, d := range w.ranges {
		if err := w.stream.Commit(ctx, p.win.ticket, d, nil); err != nil {
			return wrap("commit", d, err)
		}
	}
	return nil
}

// differing sets w.ranges to the parts of r in which the replica differs.
func (w *compareWorker) differing(ctx context.Context, r block.Range, data []byte) (err error) {
	w.ranges, err = w.current.Differing(ctx, r.Off, r.Len, data, w.ranges[:0])
	if err != nil {
		var e *Error
		if !errors.As(err, &e) {
			err = wrap("compare with replica", r, err)
		}
		return err
	}
	at := r.Off
	for _, d := range w.ranges {
		if d.Off < at || d.Empty() || !r.Contains(d) {
			return wrap("compare with replica", r, fmt.Errorf("it answered with %d bytes at %d", d.Len, d.Off))
		}
		at = d.End()
	}
	return nil
}

// blockEnd is where the blocks of an extent end, in a row of extents up to limit:
// a block that is part hole, part data belongs to the data.
func blockEnd(e block.Extent, limit int64) int64 {
	end := e.Range().End()
	if e.Hole && end < limit {
		return end / Block * Block
	}
	return min((end+Block-1)/Block*Block, limit)
}

// blocksOf is r widened to whole blocks.
func blocksOf(r block.Range) block.Range {
	off := r.Off - r.Off%Block
	return block.Range{Off: off, Len: (r.End()+Block-1)/Block*Block - off}
}
