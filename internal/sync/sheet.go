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
			s.left.Store(int32((r.End()+step-1)/step - r.Off/step))
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
	err := w.differing(s.Range, func(dst []block.Range) ([]block.Range, error) { return w.far.differing(ctx, s.Range, s.blocks, dst) })
	<-w.sheets
	if err != nil {
		return err
	}
	// As the pieces are read: from the first to the last block that differs.
	var again []block.Range
	var n, copied int64
	_ = split(s.Range, int64(w.opt.RequestSize), func(p block.Range) error {
		if r := hull(w.ranges, p); !r.Empty() {
			again, n = append(again, r), n+r.Len
		}
		return nil
	})
	w.differs.Store(2*n > s.Len)
	for _, r := range again {
		n, err := w.copy(ctx, r)
		if err != nil {
			return err
		}
		copied += n
	}
	w.meter.add(s.Len, copied)
	return nil
}

// hull is what of p lies from the first to the last of the ranges.
func hull(ranges []block.Range, p block.Range) (r block.Range) {
	for _, d := range ranges {
		if x := d.Intersect(p); r.Empty() {
			r = x
		} else if !x.Empty() {
			r.Len = x.End() - r.Off
		}
	}
	return r
}

// copy reads r and commits the parts of it that differ.
func (w *compareWorker) copy(ctx context.Context, r block.Range) (copied int64, err error) {
	var parts []block.Range
	for _, d := range w.ranges {
		if x := d.Intersect(r); !x.Empty() {
			parts = append(parts, x)
		}
	}
	t := w.stream.Begin(r)
	defer w.stream.End(t)
	err = w.read(ctx, r, func(data []byte) error {
		copied, err = w.commit(ctx, t, parts, r.Off, data)
		return err
	})
	return copied, err
}
