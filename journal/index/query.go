package index

import (
	"errors"
	"math"
	"runtime/debug"
	"slices"
	"sync"
)

// query is the scratch space of one lookup; it is pooled.
type query struct {
	vol       uint32
	at, floor uint64
	found     [levels][]match // of the gap and source at hand, ascending, disjoint in a level
	gaps      []span          // not yet answered
	next      []span          // not answered by the source at hand either
}

type span struct{ off, end int64 }

// match is a part of the volume and where a source says its bytes are.
type match struct {
	off, end int64
	pos      int64
	seq      uint64
	seg      uint32
	zero     bool
}

// later tells which of two entries came later in the log.
func (m *match) later(o *match) bool {
	if m.seq != o.seq {
		return m.seq > o.seq
	}
	if m.seg != o.seg {
		return m.seg > o.seg
	}
	return m.pos > o.pos
}

// clip cuts the match down to [off, end).
func (m match) clip(off, end int64) match {
	if m.off < off {
		if !m.zero {
			m.pos += off - m.off
		}
		m.off = off
	}
	m.end = min(m.end, end)
	return m
}

var queries = sync.Pool{New: func() any { return new(query) }}

// keepMatches bounds what a pooled query keeps, in elements of a slice.
const keepMatches = 1 << 14

func (q *query) put() {
	for i := range q.found {
		if cap(q.found[i]) > keepMatches {
			q.found[i] = nil
		}
	}
	if cap(q.gaps) > keepMatches || cap(q.next) > keepMatches {
		q.gaps, q.next = nil, nil
	}
	queries.Put(q)
}

// source is a Mem or a file.
type source interface {
	// collect appends to q.found[level] the parts of g written in (floor, at].
	collect(q *query, level int, g span) error
}

// ask puts the question to one source and appends the answers to buf.
func (q *query) ask(s source, buf []Piece) ([]Piece, error) {
	q.next = q.next[:0]
	for _, g := range q.gaps {
		for l := range q.found {
			q.found[l] = q.found[l][:0]
			if err := s.collect(q, l, g); err != nil {
				return buf, err
			}
		}
		buf = q.resolve(g, buf)
	}
	q.gaps, q.next = q.next, q.gaps
	return buf, nil
}

// resolve lays the levels' matches over each other: the latest is on top.
func (q *query) resolve(g span, buf []Piece) []Piece {
	var at [levels]int
	for p := g.off; p < g.end; {
		var top *match
		stop := g.end
		for l := range q.found {
			for at[l] < len(q.found[l]) && q.found[l][at[l]].end <= p {
				at[l]++
			}
			if at[l] == len(q.found[l]) {
				continue
			}
			m := &q.found[l][at[l]]
			if m.off > p {
				stop = min(stop, m.off)
				continue
			}
			stop = min(stop, m.end)
			if top == nil || m.later(top) {
				top = m
			}
		}
		if top == nil {
			q.next = append(q.next, span{p, stop})
		} else {
			buf = append(buf, top.clip(p, stop).piece())
		}
		p = stop
	}
	return buf
}

func (m match) piece() Piece {
	p := Piece{Off: m.off, Len: m.end - m.off, Seq: m.seq, Kind: Zero}
	if !m.zero {
		p.Kind, p.Segment, p.Pos = Data, m.seg, m.pos
	}
	return p
}

// add appends a version of a unit. In the lowest level, where a version may
// cover a part only, the versions of a unit come newest first and the later
// ones fill what is left; first is where the unit's matches begin.
func (q *query) add(level int, g span, r *record, first int) {
	size := int64(1) << shifts[level]
	off := int64(r.unit << shifts[level])
	m := match{off: off, end: off + size, pos: r.pos, seq: r.seq, seg: r.seg, zero: r.zero}
	if level > 0 {
		if m = m.clip(g.off, g.end); m.off < m.end {
			q.found[level] = append(q.found[level], m)
		}
		return
	}
	m.off, m.end = off+int64(r.lo), off+int64(r.hi)
	m = m.clip(g.off, g.end)
	list := q.found[0]
	i := first
	for ; i < len(list) && m.off < m.end; i++ {
		if list[i].end <= m.off {
			continue
		}
		if list[i].off >= m.end {
			break
		}
		if m.off < list[i].off {
			list = slices.Insert(list, i, m.clip(m.off, list[i].off))
			i++
		}
		m = m.clip(list[i].end, math.MaxInt64)
	}
	if m.off < m.end {
		list = slices.Insert(list, i, m)
	}
	q.found[0] = list
}

// full tells whether the lowest-level matches from first on cover all of g
// that lies in the unit.
func (q *query) full(g span, unit uint64, first int) bool {
	off := int64(unit << minShift)
	need := min(off+smallUnit, g.end) - max(off, g.off)
	for _, m := range q.found[0][first:] {
		need -= m.end - m.off
	}
	return need <= 0
}

// tidy sorts the pieces from first on, adds what no source knew as None, and
// joins neighbours.
func (q *query) tidy(buf []Piece, first int) []Piece {
	for _, g := range q.gaps {
		buf = append(buf, Piece{Off: g.off, Len: g.end - g.off})
	}
	ps := buf[first:]
	if len(ps) < 2 {
		return buf
	}
	slices.SortFunc(ps, func(a, b Piece) int {
		if a.Off < b.Off {
			return -1
		}
		return 1
	})
	n := 0
	for _, p := range ps[1:] {
		last := &ps[n]
		if p.Kind == last.Kind && (p.Kind != Data || p.Segment == last.Segment && p.Pos == last.Pos+last.Len) {
			last.Len += p.Len
			last.Seq = max(last.Seq, p.Seq)
			continue
		}
		n++
		ps[n] = p
	}
	return buf[:first+n+1]
}

// guard runs fn; a fault on a mapped page, which is how a disk error shows
// there, becomes an error instead of ending the process.
func guard(name *string, fn func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		if f := fault(recover()); f != nil {
			err = errors.Join(&CorruptError{File: *name, Why: "page cannot be read"}, f)
		}
	}()
	return fn()
}

// fault returns the error of a memory fault, nil if nothing panicked, and
// panics again with everything else.
func fault(r any) error {
	if r == nil {
		return nil
	}
	if e, ok := r.(interface {
		error
		Addr() uintptr
	}); ok {
		return e
	}
	panic(r)
}

func sortMatches(ms []match) {
	slices.SortFunc(ms, func(a, b match) int {
		if a.off < b.off {
			return -1
		}
		return 1
	})
}
