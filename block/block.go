// Package block holds the words every room shares about volumes: byte ranges,
// sets of them, dirty bitmaps, and the read-only device. It imports nothing of
// ours.
package block

import "io"

// Device is a volume that can be read. ReadAt may be called concurrently.
type Device interface {
	io.ReaderAt
	// Size is the volume's length in bytes.
	Size() int64
}

// Range is the bytes [Off, Off+Len) of a volume. The zero value is empty.
type Range struct {
	Off, Len int64 // bytes
}

// End is the first byte after the range.
func (r Range) End() int64 { return r.Off + r.Len }

// Empty tells whether the range holds no byte.
func (r Range) Empty() bool { return r.Len <= 0 }

// Intersect is the part both ranges have in common; empty (zero) if none.
func (r Range) Intersect(o Range) Range {
	off, end := max(r.Off, o.Off), min(r.End(), o.End())
	if end <= off {
		return Range{}
	}
	return Range{Off: off, Len: end - off}
}

// Overlaps tells whether the ranges have a byte in common.
func (r Range) Overlaps(o Range) bool { return !r.Intersect(o).Empty() }

// Contains tells whether all of o lies in r. An empty o is contained.
func (r Range) Contains(o Range) bool {
	return o.Empty() || (r.Off <= o.Off && o.End() <= r.End())
}

// Extent is a run of bytes of one allocation state.
type Extent struct {
	Off, Len int64 // bytes
	Hole     bool  // reads as zeroes and takes no space
}

// Range is the extent without its state.
func (e Extent) Range() Range { return Range{Off: e.Off, Len: e.Len} }
