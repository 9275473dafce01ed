package recovery

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/vfs"
)

// scratch is the layer of what was written to one volume of a mount, over the
// volume's view. Writes return when the kernel has them: they survive the death
// of this process. Flush makes them survive the machine's.
//
// Order of a write to new blocks: data, live bits, dirty page mark, reply. Order
// of a flush: copy the bits of the dirty pages, sync the data, write the copies
// into the map, sync the map. So the map never names a block whose data may be lost.
type scratch struct {
	view View
	size int64 // of the volume, in bytes
	fs   vfs.FS
	dir  string
	// reserve is how many bytes must stay free on the disk.
	reserve int64
	credit  atomic.Int64 // bytes of new blocks until the free space is looked at again

	data, mapFile, liveFile vfs.File
	live                    *liveBits
	durable                 *durableMap

	// regions serialise writes that bring new blocks into the layer, by region of
	// regionBlocks blocks: a copy up must not overwrite what was written meanwhile.
	// Writes to blocks that are all present take no lock. Taken in ascending order.
	regions [64]sync.Mutex

	written atomic.Uint64 // changes completed
	flush   struct {
		sync.Mutex
		flushed uint64 // changes known to be durable
		list    []int64
		buf     []byte
	}
	failed atomic.Bool // a sync failed
}

const regionBlocks = 256 // 1 MiB; a multiple of 64, so that regions share no word

// spaceStep is how many bytes of new blocks go between two looks at the free space.
const spaceStep = 4 << 20

// block buffers for copy up.
var blockPool = sync.Pool{New: func() any { return new([2 * page]byte) }}

// blocks of a volume, the last one may be short.
func blocksOf(size int64) int64 { return (size + page - 1) / page }

// ok fails once a sync has failed.
func (s *scratch) ok() error {
	if s.failed.Load() {
		return ErrScratchFailed
	}
	return nil
}

// ReadAt fills p from byte off: what was written, else the view.
func (s *scratch) ReadAt(ctx context.Context, p []byte, off int64) error {
	for len(p) > 0 {
		b := off / page
		n, present := s.live.run(b, (off+int64(len(p))+page-1)/page-b)
		part := p[:min(int64(len(p)), (b+n)*page-off)]
		if present {
			if _, err := s.data.ReadAt(part, page+off); err != nil {
				return fmt.Errorf("read scratch data: %w", err)
			}
		} else if _, err := s.view.ReadAtContext(ctx, part, off); err != nil {
			return err
		}
		p, off = p[len(part):], off+int64(len(part))
	}
	return nil
}

// lock takes the regions of blocks [first, end).
func (s *scratch) lock(first, end int64) (unlock func()) {
	var mask uint64
	for r := first / regionBlocks; r <= (end-1)/regionBlocks && mask != ^uint64(0); r++ {
		mask |= 1 << uint(r%64)
	}
	for i := range s.regions {
		if mask>>uint(i)&1 != 0 {
			s.regions[i].Lock()
		}
	}
	return func() {
		for i := range s.regions {
			if mask>>uint(i)&1 != 0 {
				s.regions[i].Unlock()
			}
		}
	}
}

// WriteAt stores p at byte off.
func (s *scratch) WriteAt(ctx context.Context, p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	if err := s.ok(); err != nil {
		return err
	}
	first, end := off/page, (off+int64(len(p))+page-1)/page
	if s.live.all(first, end) {
		if _, err := s.data.WriteAt(p, page+off); err != nil {
			return fmt.Errorf("write scratch data: %w", err)
		}
		s.written.Add(1)
		return nil
	}
	if err := s.space((end - first) * page); err != nil {
		return err
	}
	unlock := s.lock(first, end)
	defer unlock()
	if err := s.writeNew(ctx, p, off, first, end); err != nil {
		return err
	}
	return s.present(first, end)
}

// writeNew writes p and, of the first and last block, what p leaves of them and
// is not in the layer yet. The regions are locked.
func (s *scratch) writeNew(ctx context.Context, p []byte, off, first, end int64) error {
	tmp := blockPool.Get().(*[2 * page]byte)
	defer blockPool.Put(tmp)
	var bufs [3][]byte
	head, tail := bufs[1][:0], bufs[1][:0]
	if n := off - first*page; n > 0 && !s.live.get(first) {
		head = tmp[:n]
		if _, err := s.view.ReadAtContext(ctx, head, first*page); err != nil {
			return fmt.Errorf("copy up: %w", err)
		}
	}
	stop := off + int64(len(p))
	if n := min(end*page, s.size) - stop; n > 0 && !s.live.get(end-1) {
		tail = tmp[page : page+n]
		if _, err := s.view.ReadAtContext(ctx, tail, stop); err != nil {
			return fmt.Errorf("copy up: %w", err)
		}
	}
	bufs = [3][]byte{head, p, tail}
	if _, err := s.data.Writev(bufs[:], page+off-int64(len(head))); err != nil {
		return fmt.Errorf("write scratch data: %w", err)
	}
	return nil
}

// present puts blocks whose data is written into the layer. The regions are locked.
func (s *scratch) present(first, end int64) error {
	if err := s.live.set(first, end); err != nil {
		return err
	}
	s.durable.mark(first/bitsPerPage, (end-1)/bitsPerPage)
	s.written.Add(1)
	return nil
}

// Zero makes n bytes at off read as zeroes; allocate keeps them from being a hole.
func (s *scratch) Zero(ctx context.Context, off, n int64, allocate bool) error {
	if n == 0 {
		return nil
	}
	stop := off + n
	first, end := (off+page-1)/page, stop/page
	if stop == s.size {
		end = blocksOf(s.size)
	}
	if first >= end { // within a block, or over the edge of two
		return s.zeroBytes(ctx, off, n)
	}
	if head := first*page - off; head > 0 {
		if err := s.zeroBytes(ctx, off, head); err != nil {
			return err
		}
	}
	if tail := stop - end*page; tail > 0 {
		if err := s.zeroBytes(ctx, end*page, tail); err != nil {
			return err
		}
	}
	return s.zeroBlocks(first, end, allocate)
}

// zeroBytes writes zeroes into parts of at most two blocks.
func (s *scratch) zeroBytes(ctx context.Context, off, n int64) error {
	var zeroes [2 * page]byte
	return s.WriteAt(ctx, zeroes[:n], off)
}

func (s *scratch) zeroBlocks(first, end int64, allocate bool) error {
	if err := s.ok(); err != nil {
		return err
	}
	if allocate {
		if err := s.space((end - first) * page); err != nil {
			return err
		}
	}
	unlock := s.lock(first, end)
	defer unlock()
	at, n := page+first*page, (end-first)*page
	if err := s.data.PunchHole(at, n); err != nil {
		return fmt.Errorf("zero scratch data: %w", err)
	}
	if allocate {
		if err := s.data.Allocate(at, n); err != nil {
			return fmt.Errorf("allocate scratch data: %w", err)
		}
	}
	return s.present(first, end)
}

// Trim zeroes the whole blocks of the range and leaves the rest as it is.
func (s *scratch) Trim(off, n int64) error {
	first, end := (off+page-1)/page, (off+n)/page
	if off+n == s.size {
		end = blocksOf(s.size)
	}
	if first >= end {
		return nil
	}
	return s.zeroBlocks(first, end, false)
}

// space refuses new blocks that would eat into the disk's reserve.
func (s *scratch) space(n int64) error {
	if s.reserve == 0 || s.credit.Add(-n) > 0 {
		return nil
	}
	sp, err := s.fs.StatFS(s.dir)
	if err != nil {
		return fmt.Errorf("look at free space: %w", err)
	}
	if sp.Free < s.reserve+n {
		return fmt.Errorf("scratch layer: %d bytes free, %d kept in reserve: %w", sp.Free, s.reserve, syscall.ENOSPC)
	}
	s.credit.Store(spaceStep)
	return nil
}

// Extents visits which bytes of [off, off+n) are holes, in order.
func (s *scratch) Extents(off, n int64, visit func(block.Extent) bool) error {
	for end := off + n; off < end; {
		b := off / page
		blocks, present := s.live.run(b, (end+page-1)/page-b)
		stop := min(end, (b+blocks)*page)
		var more bool
		var err error
		if present {
			more, err = s.dataExtents(off, stop, visit)
		} else {
			more, err = viewExtents(s.view, off, stop, visit)
		}
		if err != nil || !more {
			return err
		}
		off = stop
	}
	return nil
}

// dataExtents visits data and holes of the layer's own blocks.
func (s *scratch) dataExtents(off, stop int64, visit func(block.Extent) bool) (more bool, err error) {
	for off < stop {
		at, err := s.data.NextData(page + off)
		if at = min(at-page, stop); err != nil {
			at = stop // no data up to the end of the file
		}
		if at > off {
			if !visit(block.Extent{Off: off, Len: at - off, Hole: true}) {
				return false, nil
			}
			off = at
			continue
		}
		if at, err = s.data.NextHole(page + off); err != nil {
			return false, fmt.Errorf("find holes of scratch data: %w", err)
		}
		at = min(at-page, stop)
		if !visit(block.Extent{Off: off, Len: at - off}) {
			return false, nil
		}
		off = at
	}
	return true, nil
}

// viewExtents visits data and holes of a view.
func viewExtents(v View, off, stop int64, visit func(block.Extent) bool) (more bool, err error) {
	extents, err := v.Extents(off, stop-off)
	if err != nil {
		return false, err
	}
	for _, e := range extents {
		x := e.Range().Intersect(block.Range{Off: off, Len: stop - off})
		if !x.Empty() && !visit(block.Extent{Off: x.Off, Len: x.Len, Hole: e.Hole}) {
			return false, nil
		}
	}
	return true, nil
}
