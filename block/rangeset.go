package block

import "sort"

// RangeSet is a set of bytes kept as sorted, disjoint, non-adjacent ranges.
// The zero value is empty and ready. Not safe for concurrent use.
type RangeSet struct {
	r []Range
}

// find is the index of the first range that ends at or after off.
func (s *RangeSet) find(off int64) int {
	return sort.Search(len(s.r), func(i int) bool { return s.r[i].End() >= off })
}

// Add puts the bytes of r into the set.
func (s *RangeSet) Add(r Range) {
	if r.Empty() {
		return
	}
	i := s.find(r.Off)
	j := i
	for j < len(s.r) && s.r[j].Off <= r.End() {
		end := max(r.End(), s.r[j].End())
		r.Off = min(r.Off, s.r[j].Off)
		r.Len = end - r.Off
		j++
	}
	s.replace(i, j, r)
}

// Subtract takes the bytes of r out of the set.
func (s *RangeSet) Subtract(r Range) {
	if r.Empty() {
		return
	}
	i := s.find(r.Off + 1)
	j := i
	var rest [2]Range
	n := 0
	for ; j < len(s.r) && s.r[j].Off < r.End(); j++ {
		o := s.r[j]
		if o.Off < r.Off {
			rest[n] = Range{Off: o.Off, Len: r.Off - o.Off}
			n++
		}
		if o.End() > r.End() {
			rest[n] = Range{Off: r.End(), Len: o.End() - r.End()}
			n++
		}
	}
	s.replace(i, j, rest[:n]...)
}

// replace puts with in the place of s.r[i:j].
func (s *RangeSet) replace(i, j int, with ...Range) {
	if len(with) <= j-i {
		n := copy(s.r[i:], with)
		s.r = append(s.r[:i+n], s.r[j:]...)
		return
	}
	grow := len(with) - (j - i)
	for range grow {
		s.r = append(s.r, Range{})
	}
	copy(s.r[j+grow:], s.r[j:len(s.r)-grow])
	copy(s.r[i:], with)
}

// Overlap appends to buf the parts of r that are in the set, in order.
func (s *RangeSet) Overlap(r Range, buf []Range) []Range {
	for i := s.find(r.Off + 1); i < len(s.r) && s.r[i].Off < r.End(); i++ {
		if x := s.r[i].Intersect(r); !x.Empty() {
			buf = append(buf, x)
		}
	}
	return buf
}

// Missing appends to buf the parts of r that are not in the set, in order.
func (s *RangeSet) Missing(r Range, buf []Range) []Range {
	at := r.Off
	for i := s.find(r.Off + 1); i < len(s.r) && s.r[i].Off < r.End(); i++ {
		if s.r[i].Off > at {
			buf = append(buf, Range{Off: at, Len: s.r[i].Off - at})
		}
		at = max(at, s.r[i].End())
	}
	if at < r.End() {
		buf = append(buf, Range{Off: at, Len: r.End() - at})
	}
	return buf
}

// Overlaps tells whether a byte of r is in the set.
func (s *RangeSet) Overlaps(r Range) bool {
	i := s.find(r.Off + 1)
	return i < len(s.r) && s.r[i].Overlaps(r)
}

// Contains tells whether every byte of r is in the set.
func (s *RangeSet) Contains(r Range) bool {
	if r.Empty() {
		return true
	}
	i := s.find(r.Off + 1)
	return i < len(s.r) && s.r[i].Contains(r)
}

// Ranges is the set in order. The slice is the set's own: valid until the next
// change, not to be written.
func (s *RangeSet) Ranges() []Range { return s.r }

// Bytes is the number of bytes in the set.
func (s *RangeSet) Bytes() int64 {
	var n int64
	for _, r := range s.r {
		n += r.Len
	}
	return n
}

// Empty tells whether the set holds no byte.
func (s *RangeSet) Empty() bool { return len(s.r) == 0 }

// Clear empties the set and keeps its memory.
func (s *RangeSet) Clear() { s.r = s.r[:0] }
