package sync

import (
	"context"
	"iter"
	"slices"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/nbd"
)

// Remote is an NBD connection, or a pool of them. For holes to be seen,
// nbd.ContextAllocation must have been selected.
type Remote interface {
	Info() nbd.RemoteInfo
	ReadAt(ctx context.Context, p []byte, off int64) error
	VisitStatus(ctx context.Context, name string, off, n int64, visit func(nbd.Extent) bool) error
}

// BitmapContext is the metadata context in which QEMU tells a dirty bitmap.
func BitmapContext(bitmap string) string { return "qemu:dirty-bitmap:" + bitmap }

// stateDirty is the extent flag of a dirty bitmap's context.
const stateDirty = 1

// maxExtents bounds what one call of Allocated returns.
const maxExtents = 4096

// remoteSource reads a volume over NBD.
type remoteSource struct {
	remote Remote
	status bool
}

// NewSource makes a source of an NBD connection, which it does not own.
func NewSource(r Remote) Source {
	return &remoteSource{remote: r, status: slices.Contains(r.Info().Contexts, nbd.ContextAllocation)}
}

func (s *remoteSource) Size() int64 { return s.remote.Info().Size }

func (s *remoteSource) ReadAt(ctx context.Context, p []byte, off int64) error {
	return s.remote.ReadAt(ctx, p, off)
}

// Allocated tells zeroes as holes, allocated or not.
func (s *remoteSource) Allocated(ctx context.Context, off, n int64) ([]block.Extent, error) {
	if !s.status {
		return []block.Extent{{Off: off, Len: n}}, nil
	}
	var list []block.Extent
	err := s.remote.VisitStatus(ctx, nbd.ContextAllocation, off, n, func(e nbd.Extent) bool {
		hole := e.Flags&nbd.StateZero != 0
		if k := len(list) - 1; k >= 0 && list[k].Hole == hole && list[k].Range().End() == e.Off {
			list[k].Len += e.Len
			return true
		}
		list = append(list, block.Extent{Off: e.Off, Len: e.Len, Hole: hole})
		return len(list) < maxExtents
	})
	return list, err
}

// dirtyWindow is the part of a volume whose bitmaps are joined at a time: 32 KiB of memory.
const dirtyWindow = 1 << 30

// DirtyRanges yields the union of dirty bitmaps, in ascending order, in whole
// blocks cut to the volume. Their contexts must have been selected, and the
// bitmaps be disabled. A failing context ends the iteration with its error and
// the range that was asked.
func DirtyRanges(ctx context.Context, r Remote, bitmaps ...string) iter.Seq2[block.Range, error] {
	return func(yield func(block.Range, error) bool) {
		size := r.Info().Size
		for off := int64(0); off < size; off += dirtyWindow {
			win := block.Range{Off: off, Len: min(dirtyWindow, size-off)}
			dirty, err := joinBitmaps(ctx, r, bitmaps, win)
			if err != nil {
				yield(win, err)
				return
			}
			for d := range dirty.Ranges() {
				if !yield(block.Range{Off: off + d.Off, Len: d.Len}, nil) {
					return
				}
			}
		}
	}
}

func joinBitmaps(ctx context.Context, r Remote, bitmaps []string, win block.Range) (*block.Bitmap, error) {
	dirty, err := block.NewBitmap(win.Len, Block)
	if err != nil {
		return nil, err
	}
	for _, b := range bitmaps {
		if err := r.VisitStatus(ctx, BitmapContext(b), win.Off, win.Len, func(e nbd.Extent) bool {
			if e.Flags&stateDirty != 0 {
				dirty.Set(block.Range{Off: e.Off - win.Off, Len: e.Len})
			}
			return true
		}); err != nil {
			return nil, err
		}
	}
	return dirty, nil
}

// CountRanges sums the bytes of ranges, for RangesOptions.Total.
func CountRanges(ranges iter.Seq2[block.Range, error]) (n int64, err error) {
	for r, err := range ranges {
		if err != nil {
			return 0, err
		}
		n += r.Len
	}
	return n, nil
}
