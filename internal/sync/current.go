package sync

import (
	"context"
	"io"
	stdsync "sync"

	"github.com/rephub/rephub/block"
)

// Current is the replica's volume as the journal has it now, wherever that is.
// All methods but Close may be called concurrently.
type Current interface {
	// Size is the volume's length in bytes.
	Size() int64
	// Differing appends to dst, in ascending order, the ranges within
	// [off, off+n) in which the replica differs from the source: from data, of n
	// bytes and the caller's again after the return, or from zeroes if data is
	// nil. off is a multiple of Block, and so are the ranges, but for the end of
	// the volume. A range may hold equal blocks, if telling them apart costs more.
	// It returns when ctx ends, whatever the peer does.
	Differing(ctx context.Context, off, n int64, data []byte, dst []block.Range) ([]block.Range, error)
	// Close ends calls under way, and gives free what is held. It may be called twice.
	Close() error
}

// holer is a device that knows its holes.
type holer interface {
	Extents(off, n int64) ([]block.Extent, error)
}

// local is a Current on this machine.
type local struct {
	device  block.Device
	holes   holer // nil if the device does not know
	buffers stdsync.Pool
}

// localStep is what is read of a device at a time, in bytes: more would not fit
// the processors' caches.
const localStep = 256 << 10

// NewCurrent compares with a device of this machine, which it does not own. If
// the device tells its Extents, holes are not read where the source has zeroes.
func NewCurrent(d block.Device) Current {
	c := &local{device: d}
	c.holes, _ = d.(holer)
	c.buffers.New = makeBuffers(localStep)
	return c
}

func (c *local) Size() int64  { return c.device.Size() }
func (c *local) Close() error { return nil }

func (c *local) Differing(ctx context.Context, off, n int64, data []byte, dst []block.Range) ([]block.Range, error) {
	buf := c.buffers.Get().(*[]byte)
	defer c.buffers.Put(buf)
	r := block.Range{Off: off, Len: n}
	compare := func(r block.Range) error {
		return split(r, localStep, func(r block.Range) error {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			b := (*buf)[:r.Len]
			if err := readDevice(c.device, b, r.Off); err != nil {
				return err
			}
			if data == nil {
				dst = appendRuns(dst, b, nil, r.Off, zeroKind, zero)
			} else {
				dst = appendRuns(dst, b, data[r.Off-off:r.End()-off], r.Off, diffKind, skip)
			}
			return nil
		})
	}
	if data != nil {
		return dst, compare(r)
	}
	return dst, eachData(c.holes, r, compare)
}

// appendRuns appends the blocks of p, read at off, that are not of the kind same.
func appendRuns(dst []block.Range, p, old []byte, off int64, classify func(p, old []byte) kind, same kind) []block.Range {
	_ = eachRun(p, old, off, classify, func(r run) error {
		if r.kind != same {
			dst = appendRange(dst, r.Range)
		}
		return nil
	})
	return dst
}

// appendRange appends r, joined with the last range if that ends where r begins.
func appendRange(dst []block.Range, r block.Range) []block.Range {
	if k := len(dst) - 1; k >= 0 && dst[k].End() == r.Off {
		dst[k].Len += r.Len
		return dst
	}
	return append(dst, r)
}

// eachData visits the parts of r that a device does not know to be holes.
func eachData(holes holer, r block.Range, visit func(block.Range) error) error {
	if holes == nil {
		return visit(r)
	}
	for at := r.Off; at < r.End(); {
		extents, err := holes.Extents(at, r.End()-at)
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

// readDevice fills b from the replica.
func readDevice(d block.Device, b []byte, off int64) error {
	n, err := d.ReadAt(b, off)
	if n == len(b) && (err == nil || err == io.EOF) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return &Error{Op: "read replica", Off: off, Len: int64(len(b)), Err: err}
}
