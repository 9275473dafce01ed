package replica

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/vfs"
)

var errExist = os.ErrExist

// Base is the base image of one volume: a raw sparse file. The initial sync
// and retention write it, at different bytes.
type Base struct {
	f    vfs.File
	name string

	synced atomic.Int64 // the initial sync has been below

	mu   sync.Mutex // taken to change the size
	size int64
}

// openBase opens a base image of at least size bytes: it grows before anything
// else tells of the new size. With create, it is made anew, all holes.
func openBase(fs vfs.FS, name string, size int64, create bool) (*Base, error) {
	flag := os.O_RDWR
	if create {
		flag |= os.O_CREATE | os.O_TRUNC
	}
	f, err := fs.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open base image: %w", err)
	}
	b := &Base{f: f, name: name}
	if b.size, err = f.Size(); err == nil {
		switch {
		case create:
			err = b.grow(size)
		case b.size < size:
			err = fmt.Errorf("%w: it has %d bytes, %d were made", ErrCorrupt, b.size, size)
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open base image %s: %w", name, err)
	}
	return b, nil
}

// grow makes the file at least size bytes long, durably.
func (b *Base) grow(size int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if size <= b.size {
		return nil
	}
	if err := b.f.Truncate(size); err != nil {
		return fmt.Errorf("grow base image: %w", err)
	}
	if err := b.f.Sync(); err != nil {
		return fmt.Errorf("sync base image: %w", err)
	}
	b.size = size
	return nil
}

// Size is the file's length in bytes: the largest size the volume has had.
func (b *Base) Size() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.size
}

// writable refuses what lies where the initial sync has been: nobody but
// retention, which tells those who remember what is there, changes it.
func (b *Base) writable(off, n int64) error {
	if synced := b.synced.Load(); off < synced {
		return fmt.Errorf("write %d bytes of base image %s at %d: the initial sync has come to %d", n, b.name, off, synced)
	}
	return nil
}

// WriteAt writes p at off, which is not below the initial sync's progress. It is
// durable after Sync.
func (b *Base) WriteAt(p []byte, off int64) (int, error) {
	if err := b.writable(off, int64(len(p))); err != nil {
		return 0, err
	}
	return b.f.WriteAt(p, off)
}

// zeroChunk is the most that Zero writes at once where it cannot make a hole.
const zeroChunk = 1 << 20

// Zero makes n bytes at off, which is not below the initial sync's progress,
// read as zeroes, as a hole where possible. It is durable after Sync.
func (b *Base) Zero(off, n int64) error {
	if n <= 0 {
		return nil
	}
	if err := b.writable(off, n); err != nil {
		return err
	}
	return b.zero(off, n)
}

func (b *Base) zero(off, n int64) error {
	if n <= 0 {
		return nil
	}
	err := b.f.PunchHole(off, n)
	if !errors.Is(err, syscall.EOPNOTSUPP) {
		return err
	}
	zero := make([]byte, min(n, zeroChunk))
	for n > 0 {
		k := min(n, zeroChunk)
		if _, err := b.f.WriteAt(zero[:k], off); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}

// Sync makes durable what WriteAt and Zero did before it was called.
func (b *Base) Sync() error { return b.f.Sync() }

// readAt fills p from off; beyond the file's end are zeroes.
func (b *Base) readAt(p []byte, off int64) error {
	n, err := b.f.ReadAt(p, off)
	if n == len(p) || errors.Is(err, io.EOF) {
		clear(p[n:])
		return nil
	}
	return fmt.Errorf("read base image: %w", err)
}

// extents appends what is data and what hole in [off, off+n).
func (b *Base) extents(off, n int64, out []block.Extent) ([]block.Extent, error) {
	for end := off + n; off < end; {
		data, err := b.f.NextData(off)
		if errors.Is(err, io.EOF) {
			data = end
		} else if err != nil {
			return out, fmt.Errorf("find data in base image: %w", err)
		}
		if data = min(data, end); data > off {
			out = addExtent(out, block.Extent{Off: off, Len: data - off, Hole: true})
			off = data
			continue
		}
		hole, err := b.f.NextHole(off)
		if errors.Is(err, io.EOF) {
			hole = end
		} else if err != nil {
			return out, fmt.Errorf("find hole in base image: %w", err)
		}
		if hole = min(hole, end); hole <= off {
			return out, fmt.Errorf("find hole in base image: at %d, from %d on", hole, off)
		}
		out = addExtent(out, block.Extent{Off: off, Len: hole - off})
		off = hole
	}
	return out, nil
}

// addExtent appends e, joined with its neighbour of the same kind.
func addExtent(out []block.Extent, e block.Extent) []block.Extent {
	if n := len(out); n > 0 && out[n-1].Hole == e.Hole && out[n-1].Off+out[n-1].Len == e.Off {
		out[n-1].Len += e.Len
		return out
	}
	return append(out, e)
}
