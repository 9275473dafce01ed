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
// answer, and Options.Requests of them at most read. Each may have a ticket open,
// and a tap write looks at every one, so there are not more.
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
	far, _ := current.(*remote)
	if far != nil {
		workers = max(workers, min(remoteWorkers, maxBuffers/opt.RequestSize))
	}
	c := &comparer{
		src: src, current: current, far: far, stream: stream, opt: opt, meter: newMeter(opt, 0, total),
		reads: make(chan struct{}, opt.Requests), sheets: make(chan struct{}, maxSheets),
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
	far     *remote // current, if it is elsewhere
	stream  Stream
	opt     *Options
	meter   *meter
	reads   chan struct{} // one for every read in flight
	sheets  chan struct{} // one for every sheet
	windows openWindows
	differs atomic.Bool // most of what was asked about last: better keep what is read; told by sheets and by single pieces
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
	for r, err := range dirty {
		if err != nil {
			return &Error{Op: "ask dirty ranges", Off: r.Off, Len: r.Len, Err: err}
		}
		r = blocksOf(r).Intersect(block.Range{Len: c.opt.Size})
		err = split(r, compareWindow, func(r block.Range) error {
			if r.Len >= minWindow {
				return c.window(ctx, r, emit)
			}
			return c.emitData(ctx, r, emit)
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
		return c.emitData(ctx, x, emit)
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
	if p.sheet != nil {
		return w.note(ctx, p)
	}
	t := w.stream.Begin(p.Range)
	defer w.stream.End(t)
	return w.read(ctx, p.Range, func(data []byte) error {
		ranges, err := w.current.Differing(ctx, p.Off, p.Len, data, w.ranges[:0])
		if err := w.found(p.Range, ranges, err); err != nil {
			return err
		}
		w.differs.Store(2*hull(w.ranges).Len > p.Len)
		copied, err := w.commit(ctx, t, w.ranges, p.Off, data)
		if err == nil {
			w.meter.add(p.Len, copied)
		}
		return err
	})
}

// read reads r, which is no longer than a piece, and lends what it has read.
func (w *compareWorker) read(ctx context.Context, r block.Range, use func(data []byte) error) error {
	select {
	case w.reads <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	pool := w.bufferPool(r.Len)
	buf := pool.Get().(*[]byte)
	defer pool.Put(buf)
	data := (*buf)[:r.Len]
	err := w.src.ReadAt(ctx, data, r.Off)
	<-w.reads
	if err != nil {
		return &Error{Op: "read source", Off: r.Off, Len: r.Len, Err: err}
	}
	return use(data)
}

// commit commits parts of data, which was read at off.
func (w *compareWorker) commit(ctx context.Context, t Ticket, parts []block.Range, off int64, data []byte) (copied int64, err error) {
	for _, d := range parts {
		err := eachRun(data[d.Off-off:d.End()-off], nil, d.Off, zeroKind, func(r run) error {
			if r.kind == zero {
				r.data = nil
			} else {
				copied += r.Len
			}
			return wrap("commit", r.Range, w.stream.Commit(ctx, t, r.Range, r.data))
		})
		if err != nil {
			return copied, err
		}
	}
	return copied, nil
}

// hole commits zeroes where the replica has something else and the source a hole.
func (w *compareWorker) hole(ctx context.Context, p piece) error {
	ranges, err := w.current.Differing(ctx, p.Off, p.Len, nil, w.ranges[:0])
	if err := w.found(p.Range, ranges, err); err != nil {
		return err
	}
	for _, d := range w.ranges {
		if err := w.stream.Commit(ctx, p.win.ticket, d, nil); err != nil {
			return wrap("commit", d, err)
		}
	}
	return nil
}

// found sets w.ranges to the parts of r in which the replica was found to differ,
// which are checked.
func (w *compareWorker) found(r block.Range, ranges []block.Range, err error) error {
	w.ranges = ranges
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
