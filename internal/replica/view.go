package replica

import (
	"context"
	"fmt"
	"io"
	"math"
	"sync/atomic"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/journal"
)

// View is a volume at a point: read-only, always the same. All methods but
// Close may be called concurrently, with appends, merges and retention going
// on. Its point is pinned until Close.
type View struct {
	image
	size    int64
	release func()
	closed  atomic.Bool
}

// View opens a volume at a point, without reading any payload. ErrNoPoint when
// at is not one that the group could have crashed at, or is no longer kept;
// ErrNoVolume when the group did not have the volume then.
func (s *Store) View(id journal.VolumeID, at journal.Seq) (*View, error) {
	release, err := s.Pin(at)
	if err != nil {
		return nil, fmt.Errorf("open view: %w", err)
	}
	v, err := s.view(id, at)
	if err != nil {
		release()
		return nil, fmt.Errorf("open view of volume %d at %d: %w", id, at, err)
	}
	v.release = release
	return v, nil
}

func (s *Store) view(id journal.VolumeID, at journal.Seq) (*View, error) {
	tl := s.log.Timeline()
	if !tl.IsPoint(at) {
		return nil, ErrNoPoint
	}
	vol, ok := tl.Volume(id)
	if !ok {
		return nil, ErrNoVolume
	}
	size, ok := vol.At(at)
	if !ok {
		return nil, ErrNoVolume
	}
	base, err := s.Base(id)
	if err != nil {
		return nil, err
	}
	return &View{image: image{s: s, id: id, base: base, at: uint64(at), shelves: shelves(&vol, uint64(at))}, size: size}, nil
}

// Size implements block.Device.
func (v *View) Size() int64 { return v.size }

// ReadAt implements io.ReaderAt: it reads short, with io.EOF, only at the end.
func (v *View) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read volume %d at %d: negative offset", v.id, off)
	}
	n := int(max(0, min(int64(len(p)), v.size-off)))
	if _, err := v.ReadAtContext(context.Background(), p[:n], min(off, v.size)); err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// ReadAtContext fills p wholly from byte off, or fails. Payloads are not
// compared with their checksums here (journal check does that): a read is
// seldom of whole entries.
func (v *View) ReadAtContext(ctx context.Context, p []byte, off int64) (int, error) {
	if v.closed.Load() {
		return 0, ErrClosed
	}
	if off < 0 || off > v.size-int64(len(p)) {
		return 0, fmt.Errorf("read %d bytes of volume %d at %d: its size is %d", len(p), v.id, off, v.size)
	}
	if err := v.readAt(ctx, p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Extents tells which bytes of [off, off+n) are holes, in order, all covered.
func (v *View) Extents(off, n int64) ([]block.Extent, error) {
	if v.closed.Load() {
		return nil, ErrClosed
	}
	if off < 0 || n < 0 || off > v.size-n {
		return nil, fmt.Errorf("extents of %d bytes of volume %d at %d: its size is %d", n, v.id, off, v.size)
	}
	return v.extents(off, n)
}

// Close gives the point free. Reads must have returned. It may be called twice.
func (v *View) Close() error {
	if !v.closed.Swap(true) {
		v.release()
	}
	return nil
}

// Latest reads the volume as base and journal have it at the moment of each
// read, point or not; syncs compare against it.
func (s *Store) Latest(id journal.VolumeID) block.Device { return latest{s, id} }

type latest struct {
	s  *Store
	id journal.VolumeID
}

func (l latest) open() (*View, error) {
	tl := l.s.log.Timeline()
	vol, ok := tl.Volume(l.id)
	if !ok {
		return nil, fmt.Errorf("%w: volume %d", ErrNoVolume, l.id)
	}
	base, err := l.s.Base(l.id)
	if err != nil {
		return nil, err
	}
	im := image{s: l.s, id: l.id, base: base, at: math.MaxUint64, shelves: shelves(&vol, math.MaxUint64)}
	return &View{image: im, size: vol.Size()}, nil
}

// Size implements block.Device.
func (l latest) Size() int64 {
	v, err := l.open()
	if err != nil {
		return 0
	}
	return v.size
}

// ReadAt implements io.ReaderAt.
func (l latest) ReadAt(p []byte, off int64) (int, error) {
	v, err := l.open()
	if err != nil {
		return 0, err
	}
	return v.ReadAt(p, off)
}

// Extents tells what is data and what hole; see View.Extents.
func (l latest) Extents(off, n int64) ([]block.Extent, error) {
	v, err := l.open()
	if err != nil {
		return nil, err
	}
	return v.Extents(off, n)
}
