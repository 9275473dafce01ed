package block

import (
	"fmt"
	"iter"
	"math/bits"
)

// Bitmap marks the granules of a volume that may differ. A granule is dirty as
// soon as one byte of it was set. Not safe for concurrent use.
type Bitmap struct {
	size  int64 // bytes
	gran  int64 // bytes, a power of two
	shift uint
	words []uint64
}

// NewBitmap makes an empty bitmap over size bytes with the given granularity
// in bytes, a power of two.
func NewBitmap(size, granularity int64) (*Bitmap, error) {
	if size < 0 {
		return nil, fmt.Errorf("bitmap size %d is negative", size)
	}
	if granularity <= 0 || granularity&(granularity-1) != 0 {
		return nil, fmt.Errorf("bitmap granularity %d is not a power of two", granularity)
	}
	b := &Bitmap{size: size, gran: granularity, shift: uint(bits.TrailingZeros64(uint64(granularity)))}
	b.words = make([]uint64, (b.granules()+63)/64)
	return b, nil
}

func (b *Bitmap) granules() int64 { return (b.size + b.gran - 1) >> b.shift }

// Size is the number of bytes covered.
func (b *Bitmap) Size() int64 { return b.size }

// Granularity is the number of bytes of one granule.
func (b *Bitmap) Granularity() int64 { return b.gran }

// clip cuts r to the volume.
func (b *Bitmap) clip(r Range) Range { return r.Intersect(Range{Len: b.size}) }

// Set marks every granule that r touches. What lies outside the volume is ignored.
func (b *Bitmap) Set(r Range) {
	if r = b.clip(r); !r.Empty() {
		b.fill(r.Off>>b.shift, (r.End()-1)>>b.shift+1, true)
	}
}

// Clear unmarks every granule that lies wholly in r (the volume's last granule
// ends with the volume).
func (b *Bitmap) Clear(r Range) {
	if r = b.clip(r); r.Empty() {
		return
	}
	first, end := (r.Off+b.gran-1)>>b.shift, r.End()>>b.shift
	if r.End() == b.size {
		end = b.granules()
	}
	if first < end {
		b.fill(first, end, false)
	}
}

// fill sets or clears granules [first, end).
func (b *Bitmap) fill(first, end int64, set bool) {
	for w := first / 64; w <= (end-1)/64; w++ {
		mask := ^uint64(0)
		if lo := first - w*64; lo > 0 {
			mask &= ^uint64(0) << uint(lo)
		}
		if hi := end - w*64; hi < 64 {
			mask &= 1<<uint(hi) - 1
		}
		if set {
			b.words[w] |= mask
		} else {
			b.words[w] &^= mask
		}
	}
}

// Get tells whether the granule of byte off is marked.
func (b *Bitmap) Get(off int64) bool {
	if off < 0 || off >= b.size {
		return false
	}
	g := off >> b.shift
	return b.words[g/64]&(1<<uint(g%64)) != 0
}

// Next is the first run of marked granules at or after byte from, cut to the
// volume; false when there is none.
func (b *Bitmap) Next(from int64) (Range, bool) {
	from = max(from, 0)
	first := b.scan(from>>b.shift, true)
	if from >= b.size || first >= b.granules() {
		return Range{}, false
	}
	end := b.scan(first, false)
	off := max(first<<b.shift, from)
	return Range{Off: off, Len: min(end<<b.shift, b.size) - off}, true
}

// scan finds the first granule at or after g whose mark equals set; the number
// of granules when there is none.
func (b *Bitmap) scan(g int64, set bool) int64 {
	n := b.granules()
	for g < n {
		w := b.words[g/64]
		if !set {
			w = ^w
		}
		if w >>= uint(g % 64); w != 0 {
			return min(g+int64(bits.TrailingZeros64(w)), n)
		}
		g = (g/64 + 1) * 64
	}
	return n
}

// Ranges iterates over the marked runs in order. Clearing what was already
// yielded is allowed while iterating.
func (b *Bitmap) Ranges() iter.Seq[Range] {
	return func(yield func(Range) bool) {
		for at := int64(0); ; {
			r, ok := b.Next(at)
			if !ok || !yield(r) {
				return
			}
			at = r.End()
		}
	}
}

// Count is the number of marked bytes; the last granule counts with the bytes
// the volume has of it.
func (b *Bitmap) Count() int64 {
	var n int64
	for _, w := range b.words {
		n += int64(bits.OnesCount64(w))
	}
	n <<= b.shift
	if b.size > 0 && b.Get(b.size-1) {
		n -= b.granules()<<b.shift - b.size
	}
	return n
}

// Or marks everything that o marks. The granularities may differ; both must
// cover the same size.
func (b *Bitmap) Or(o *Bitmap) error {
	if b.size != o.size {
		return fmt.Errorf("join bitmaps of %d and %d bytes", b.size, o.size)
	}
	if b.gran == o.gran {
		for i, w := range o.words {
			b.words[i] |= w
		}
		return nil
	}
	for r := range o.Ranges() {
		b.Set(r)
	}
	return nil
}
