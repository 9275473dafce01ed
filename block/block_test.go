package block

import (
	"math/rand/v2"
	"testing"
)

// model is a set of bytes as a plain array.
type model [256]bool

func (m *model) set(r Range, v bool) {
	for i := max(r.Off, 0); i < min(r.End(), int64(len(m))); i++ {
		m[i] = v
	}
}

func randomRange(r *rand.Rand) Range {
	off := r.Int64N(256)
	return Range{Off: off, Len: r.Int64N(min(40, 257-off))}
}

func TestRange(t *testing.T) {
	a, b := Range{10, 10}, Range{15, 10}
	if got := a.Intersect(b); got != (Range{15, 5}) {
		t.Errorf("intersection is %v", got)
	}
	if a.Overlaps(Range{20, 5}) || !a.Overlaps(b) || a.Overlaps(Range{12, 0}) {
		t.Error("overlap")
	}
	if !a.Contains(Range{10, 10}) || a.Contains(b) || !a.Contains(Range{500, 0}) {
		t.Error("contains")
	}
}

func TestRangeSetAgainstModel(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		var s RangeSet
		var m model
		for range 60 {
			x := randomRange(r)
			if r.IntN(3) > 0 {
				s.Add(x)
				m.set(x, true)
			} else {
				s.Subtract(x)
				m.set(x, false)
			}
			compareSet(t, &s, &m)
			compareParts(t, &s, &m, randomRange(r))
		}
	}
}

func compareSet(t *testing.T, s *RangeSet, m *model) {
	t.Helper()
	var got model
	last, n := int64(-1), int64(0)
	for _, x := range s.Ranges() {
		if x.Off <= last || x.Empty() {
			t.Fatalf("ranges touch or are out of order: %v", s.Ranges())
		}
		last, n = x.End(), n+x.Len
		got.set(x, true)
	}
	if got != *m || n != s.Bytes() || s.Empty() != (n == 0) {
		t.Fatalf("set is %v (%d bytes)", s.Ranges(), s.Bytes())
	}
}

func compareParts(t *testing.T, s *RangeSet, m *model, x Range) {
	t.Helper()
	var in, out model
	for _, p := range s.Overlap(x, nil) {
		in.set(p, true)
	}
	for _, p := range s.Missing(x, nil) {
		out.set(p, true)
	}
	any, all := false, true
	for i := range m {
		inside := int64(i) >= x.Off && int64(i) < x.End()
		if in[i] != (inside && m[i]) || out[i] != (inside && !m[i]) {
			t.Fatalf("parts of %v in %v: byte %d", x, s.Ranges(), i)
		}
		any, all = any || inside && m[i], all && (!inside || m[i])
	}
	if s.Overlaps(x) != any || s.Contains(x) != all {
		t.Fatalf("%v in %v: overlaps %v, contains %v", x, s.Ranges(), s.Overlaps(x), s.Contains(x))
	}
}

func TestBitmapAgainstModel(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		size, gran := 200+r.Int64N(57), int64(1)<<r.IntN(5)
		b, err := NewBitmap(size, gran)
		if err != nil {
			t.Fatal(err)
		}
		var m model
		for range 40 {
			x := randomRange(r)
			set := r.IntN(3) > 0
			if set {
				b.Set(x)
			} else {
				b.Clear(x)
			}
			for g := int64(0); g < size; g += gran {
				whole := Range{g, min(gran, size-g)}
				if set && whole.Overlaps(x) || !set && x.Intersect(Range{0, size}).Contains(whole) {
					m.set(whole, set)
				}
			}
			compareBitmap(t, b, &m)
		}
	}
}

func compareBitmap(t *testing.T, b *Bitmap, m *model) {
	t.Helper()
	var got model
	n, last := int64(0), int64(-1)
	for r := range b.Ranges() {
		if r.Off <= last || r.Empty() || r.End() > b.Size() {
			t.Fatalf("run %v after byte %d of %d", r, last, b.Size())
		}
		got.set(r, true)
		n, last = n+r.Len, r.End()
	}
	if got != *m || b.Count() != n {
		t.Fatalf("bitmap differs from the model; %d bytes, counted %d", n, b.Count())
	}
	for i, want := range m {
		if b.Get(int64(i)) != want {
			t.Fatalf("byte %d", i)
		}
		if r, ok := b.Next(int64(i)); ok && (r.Off < int64(i) || !b.Get(r.Off)) {
			t.Fatalf("next at %d is %v", i, r)
		}
	}
}

func TestBitmapOr(t *testing.T) {
	a, _ := NewBitmap(100, 4)
	b, _ := NewBitmap(100, 16)
	c, _ := NewBitmap(100, 4)
	d, _ := NewBitmap(96, 4)
	a.Set(Range{1, 1})
	b.Set(Range{50, 1})
	c.Set(Range{99, 1})
	for _, o := range []*Bitmap{b, c} {
		if err := a.Or(o); err != nil {
			t.Fatal(err)
		}
	}
	if a.Count() != 4+16+4 || !a.Get(0) || !a.Get(63) || !a.Get(98) || a.Get(64) {
		t.Errorf("%d bytes are marked", a.Count())
	}
	if a.Or(d) == nil {
		t.Error("bitmaps of different sizes were joined")
	}
	for _, g := range []int64{0, 3, -4} {
		if _, err := NewBitmap(10, g); err == nil {
			t.Errorf("granularity %d was taken", g)
		}
	}
	if _, err := NewBitmap(-1, 4); err == nil {
		t.Error("a negative size was taken")
	}
}
