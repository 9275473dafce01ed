package index

import "math"

// collect implements source.
func (m *Mem) collect(q *query, level int, g span) error {
	v := m.findVolume(q.vol)
	if v == nil || v.counts[level].Load() == 0 {
		return nil
	}
	first, last := uint64(g.off)>>shifts[level], uint64(g.end-1)>>shifts[level]
	if last-first >= uint64(m.count.Load()) {
		m.collectAll(q, level, g)
		return nil
	}
	t := m.table.Load()
	for u := first; u <= last; u++ {
		m.collectUnit(q, level, g, t.slots[m.slot(t, q.vol, level, u)].Load(), u)
	}
	return nil
}

// collectUnit follows the versions of one unit; head is the newest.
func (m *Mem) collectUnit(q *query, level int, g span, head uint32, unit uint64) {
	r := m.newest(head, q.at)
	first := len(q.found[level])
	for r != nil && r.seq > q.floor {
		rec := record{unit: r.unit, seq: r.seq, pos: r.pos, seg: r.seg, lo: r.lo, hi: r.hi, zero: r.zero}
		q.add(level, g, &rec, first)
		if level > 0 || r.prev == 0 || q.full(g, unit, first) {
			return
		}
		r = m.record(r.prev)
	}
}

// collectAll goes through the whole table, for a gap of more units than there
// are records, and sorts what it finds.
func (m *Mem) collectAll(q *query, level int, g span) {
	t := m.table.Load()
	for i := range t.slots {
		n := t.slots[i].Load()
		if n == 0 {
			continue
		}
		r := m.record(n)
		off := int64(r.unit << shifts[level])
		if r.vol == q.vol && int(r.level) == level && off < g.end && off+1<<shifts[level] > g.off {
			m.collectUnit(q, level, g, n, r.unit)
		}
	}
	sortMatches(q.found[level])
}

// collect implements source.
func (f *file) collect(q *query, level int, g span) error {
	s := f.section(q.vol, level)
	if s == nil {
		return nil
	}
	first, last := uint64(g.off)>>shifts[level], uint64(g.end-1)>>shifts[level]
	if last < s.minUnit || first > s.maxUnit {
		return nil
	}
	if may, err := f.mayHold(s, first, last); err != nil || !may {
		return err
	}
	first, last = max(first, s.minUnit), min(last, s.maxUnit)
	from, to, err := f.bucket(s, first)
	if err != nil {
		return err
	}
	if first == last {
		return f.collectOne(q, s, g, from, to, first)
	}
	i := from
	if first > 0 {
		if i, err = f.search(s, from, to, first-1, math.MaxUint64); err != nil {
			return err
		}
	}
	return f.collectRange(q, s, g, i, last)
}

// collectOne finds the newest version of one unit among records [from, to).
func (f *file) collectOne(q *query, s *section, g span, from, to, unit uint64) error {
	end, err := f.search(s, from, to, unit, q.at)
	if err != nil || end == 0 {
		return err
	}
	return f.collectVersions(q, s, g, 0, end, unit)
}

// collectRange goes from record i to the last record of unit last.
func (f *file) collectRange(q *query, s *section, g span, i, last uint64) error {
	for i < s.count {
		unit, _, err := f.key(s, i)
		if err != nil {
			return err
		}
		if unit > last {
			return nil
		}
		end, err := f.gallop(s, i, unit, q.at)
		if err != nil {
			return err
		}
		if end > i {
			if err := f.collectVersions(q, s, g, i, end, unit); err != nil {
				return err
			}
		}
		next, err := f.gallop(s, end, unit, math.MaxUint64)
		if err != nil {
			return err
		}
		if next == i {
			return f.corrupt(blockSize+(s.first+i)<<recordShift, "records are out of order")
		}
		i = next
	}
	return nil
}

// collectVersions adds the newest of the unit's records before end, and more
// where it covers a part only.
func (f *file) collectVersions(q *query, s *section, g span, from, end, unit uint64) error {
	level := int(s.level)
	first := len(q.found[level])
	for i := end; i > from; i-- {
		u, seq, err := f.key(s, i-1)
		if err != nil {
			return err
		}
		if u != unit || seq <= q.floor {
			return nil
		}
		r := f.record(s, i-1)
		if level == 0 && (r.lo >= r.hi || r.hi > smallUnit) {
			return f.corrupt(blockSize+(s.first+i-1)<<recordShift, "record covers nothing")
		}
		q.add(level, g, &r, first)
		if level > 0 || q.full(g, unit, first) {
			return nil
		}
	}
	return nil
}
