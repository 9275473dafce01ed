package index

import (
	"math/bits"
	"sync/atomic"
)

// Mem is an index in memory. One goroutine adds, any number look up at the
// same time without locks: what a lookup sees is what had been added when it
// began, and perhaps some of what was added since.
//
// The versions of a unit form a list, newest first, found through a hash
// table. Beside the link to the version before, every version holds one far
// link, so that the newest version at or below a seq is found in logarithmic
// time (a skew-binary list).
type Mem struct {
	table  atomic.Pointer[memTable]
	chunks atomic.Pointer[[]*memChunk]
	count  atomic.Uint32
	vols   atomic.Pointer[[]*memVolume]
	minSeq atomic.Uint64
	maxSeq atomic.Uint64
}

const (
	chunkShift    = 7
	chunkRecords  = 1 << chunkShift
	firstTable    = 64
	memTableLoads = 2 // slots per key, at least
)

type memChunk [chunkRecords]memRecord

// memRecord is one version of one unit. Numbers of records count from 1.
type memRecord struct {
	unit  uint64
	seq   uint64
	pos   int64
	seg   uint32
	vol   uint32
	prev  uint32 // the version before, 0 if none
	far   uint32 // a version long before, 0 if none
	depth uint32 // number of versions before this one
	lo    uint16
	hi    uint16
	level uint8
	zero  bool
}

// memTable maps a unit to its newest version: open addressing, never full.
type memTable struct {
	mask  uint64
	keys  int // used by the writer only
	slots []atomic.Uint32
}

// memVolume counts the records of a volume at each level.
type memVolume struct {
	id     uint32
	counts [levels]atomic.Uint32
}

// NewMem returns an empty Mem. It takes little memory until it is added to.
func NewMem() *Mem {
	m := &Mem{}
	m.table.Store(newMemTable(firstTable))
	m.chunks.Store(&[]*memChunk{})
	m.vols.Store(&[]*memVolume{})
	return m
}

func newMemTable(size int) *memTable {
	return &memTable{mask: uint64(size - 1), slots: make([]atomic.Uint32, size)}
}

// Len returns the number of records: several per extent whose edges are not
// aligned. Each takes about 70 bytes of memory and 32 in a file.
func (m *Mem) Len() int { return int(m.count.Load()) }

// Seqs returns the lowest and the highest seq added, zeroes when empty.
func (m *Mem) Seqs() (low, high uint64) { return m.minSeq.Load(), m.maxSeq.Load() }

// Add enters an extent; see Extent for the order. Extents of no length change
// nothing.
func (m *Mem) Add(e Extent) {
	if e.Len <= 0 {
		return
	}
	vol := m.volume(e.Volume)
	for off, end := e.Off, e.Off+e.Len; off < end; {
		c, next := nextCut(off, end)
		pos := e.Pos
		if !e.Zero {
			pos += off - e.Off
		}
		m.add(memRecord{unit: c.unit, seq: e.Seq, pos: pos, seg: e.Segment, vol: e.Volume,
			lo: c.lo, hi: c.hi, level: uint8(c.level), zero: e.Zero})
		vol.counts[c.level].Add(1)
		off = next
	}
	if m.minSeq.Load() == 0 {
		m.minSeq.Store(e.Seq)
	}
	m.maxSeq.Store(e.Seq)
}

// add links a record in. Only the store of its number into the table, the last
// step, lets a reader find it.
func (m *Mem) add(r memRecord) {
	t := m.table.Load()
	if (t.keys+1)*memTableLoads > len(t.slots) {
		t = m.grow(t)
	}
	slot := m.slot(t, r.vol, int(r.level), r.unit)
	if head := t.slots[slot].Load(); head != 0 {
		p := m.record(head)
		r.prev, r.far, r.depth = head, head, p.depth+1
		if f := m.depthOf(p.far); p.far != 0 && p.depth-f == f-m.depthOf(m.farOf(p.far)) {
			r.far = m.farOf(p.far)
		}
	} else {
		t.keys++
	}
	n := m.count.Load()
	chunks := *m.chunks.Load()
	if int(n>>chunkShift) == len(chunks) {
		chunks = append(chunks, new(memChunk))
		m.chunks.Store(&chunks)
	}
	chunks[n>>chunkShift][n&(chunkRecords-1)] = r
	m.count.Store(n + 1)
	t.slots[slot].Store(n + 1)
}

func (m *Mem) depthOf(n uint32) uint32 {
	if n == 0 {
		return 0
	}
	return m.record(n).depth
}

func (m *Mem) farOf(n uint32) uint32 {
	if n == 0 {
		return 0
	}
	return m.record(n).far
}

// record returns record number n > 0.
func (m *Mem) record(n uint32) *memRecord {
	n--
	return &(*m.chunks.Load())[n>>chunkShift][n&(chunkRecords-1)]
}

// slot finds the unit's slot, or the free one where it belongs.
func (m *Mem) slot(t *memTable, vol uint32, level int, unit uint64) uint64 {
	i := hashUnit(vol, level, unit) & t.mask
	for {
		n := t.slots[i].Load()
		if n == 0 {
			return i
		}
		if r := m.record(n); r.unit == unit && r.vol == vol && int(r.level) == level {
			return i
		}
		i = (i + 1) & t.mask
	}
}

// grow publishes a table twice the size with the same heads.
func (m *Mem) grow(old *memTable) *memTable {
	t := newMemTable(2 * len(old.slots))
	t.keys = old.keys
	for i := range old.slots {
		if n := old.slots[i].Load(); n != 0 {
			r := m.record(n)
			t.slots[m.slot(t, r.vol, int(r.level), r.unit)].Store(n)
		}
	}
	m.table.Store(t)
	return t
}

// volume returns the volume's counters, made at its first extent.
func (m *Mem) volume(id uint32) *memVolume {
	if v := m.findVolume(id); v != nil {
		return v
	}
	old := *m.vols.Load()
	vols := append(old[:len(old):len(old)], &memVolume{id: id})
	m.vols.Store(&vols)
	return vols[len(vols)-1]
}

func (m *Mem) findVolume(id uint32) *memVolume {
	for _, v := range *m.vols.Load() {
		if v.id == id {
			return v
		}
	}
	return nil
}

// newest returns the newest version with seq ≤ at, starting at version n.
func (m *Mem) newest(n uint32, at uint64) *memRecord {
	for n != 0 {
		r := m.record(n)
		if r.seq <= at {
			return r
		}
		if r.far != 0 && m.record(r.far).seq > at {
			n = r.far
		} else {
			n = r.prev
		}
	}
	return nil
}

// hashUnit mixes the key of a unit into 64 bits.
func hashUnit(vol uint32, level int, unit uint64) uint64 {
	hi, lo := bits.Mul64(unit^0x9e3779b97f4a7c15, (uint64(vol)<<3|uint64(level))*0xd6e8feb86659fd93+0xa0761d6478bd642f|1)
	h := hi ^ lo
	h ^= h >> 32
	h *= 0xe7037ed1a0b428db
	return h ^ h>>29
}
