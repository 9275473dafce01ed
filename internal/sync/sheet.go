package sync

import (
	"context"
	"sync/atomic"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/digest"
)

// maxSheets are under way at a time, up to 128 MiB of the volume. Half of the
// workers may wait for their answers.
const maxSheets = remoteWorkers / 2

// sheet is a row of pieces about which one question is asked, if the replica is on
// another machine. Only hashes are kept of what was read: a buffer that waited for
// the answer would have left the processor's cache, and a question for each would
// cost more than reading it. What differs is read once more.
type sheet struct {
	block.Range
	blocks []digest.Sum // the source's
	left   atomic.Int32 // pieces to hash
}

// emitData emits the pieces of r, which is no hole.
func (c *comparer) emitData(ctx context.Context, r block.Range, emit func(piece) error) error {
	step := int64(c.opt.RequestSize)
	if c.far == nil {
		return split(r, step, func(r block.Range) error { return emit(piece{Range: r}) })
	}
	return split(r, maxCompare, func(r block.Range) error {
		var s *sheet
		if r.Len > step && !c.differs.Load() { // a single piece is a question anyhow
			select {
			case c.sheets <- struct{}{}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			s = &sheet{Range: r, blocks: make([]digest.Sum, blocksIn(r.Len))}
			s.left.Store(int32(parts(r, step)))
		}
		return split(r, step, func(r block.Range) error { return emit(piece{Range: r, sheet: s}) })
	})
}

// note hashes one piece of a sheet. Who has hashed the last one settles the sheet.
func (w *compareWorker) note(ctx context.Context, p piece) error {
	s := p.sheet
	err := w.read(ctx, p.Range, func(data []byte) error {
		first, n := (p.Off-s.Off)/Block, blocksIn(p.Len)
		w.far.hash.AppendBlocks(s.blocks[first:first:first+n], data)
		return nil
	})
	if err != nil || s.left.Add(-1) > 0 {
		return err
	}
	return w.settle(ctx, s)
}

// settle asks what of a sheet differs, and commits that. A block that was equal
// when it was asked about needs no ticket: nothing is committed of it, and what was
// written since comes by the tap.
func (w *compareWorker) settle(ctx context.Context, s *sheet) error {
	ranges, err := w.far.differing(ctx, s.Range, s.blocks, w.ranges[:0])
	<-w.sheets
	if err := w.found(s.Range, ranges, err); err != nil {
		return err
	}
	var all block.RangeSet
	for _, d := range w.ranges {
		all.Add(d)
	}
	var again [][]block.Range // by the pieces that are read
	var n, copied int64
	_ = split(s.Range, int64(w.opt.RequestSize), func(p block.Range) error {
		if d := all.Overlap(p, nil); len(d) > 0 {
			again, n = append(again, d), n+hull(d).Len
		}
		return nil
	})
	w.differs.Store(2*n > s.Len)
	for _, d := range again {
		n, err := w.copy(ctx, d)
		if err != nil {
			return err
		}
		copied += n
	}
	w.meter.add(s.Len, copied)
	return nil
}

// hull reaches from the first of the ranges to the last.
func hull(ranges []block.Range) block.Range {
	if len(ranges) == 0 {
		return block.Range{}
	}
	return block.Range{Off: ranges[0].Off, Len: ranges[len(ranges)-1].End() - ranges[0].Off}
}

// copy reads and commits the ranges, which lie in one piece.
func (w *compareWorker) copy(ctx context.Context, ranges []block.Range) (copied int64, err error) {
	r := hull(ranges)
	t := w.stream.Begin(r)
	defer w.stream.End(t)
	err = w.read(ctx, r, func(data []byte) error {
		copied, err = w.commit(ctx, t, ranges, r.Off, data)
		return err
	})
	return copied, err
}
