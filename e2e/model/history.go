// Package model keeps, in memory, everything that was ever written to the
// volumes of a group, so that a test can say what the volumes held at any seq
// without believing a byte of what rephub stores.
//
// Every write carries bytes that only it can have made. The journal is asked
// for nothing but the order; that order is checked against what the writers
// saw, and the content comes from the writers' own notes.
package model

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sync"
)

// Kind is what a request does.
type Kind uint8

// Kinds of requests. A trim does nothing: QEMU's mirror swallows discards, on
// the source as on the tap.
const (
	Write Kind = iota
	Zero
	Trim
)

func (k Kind) String() string { return [...]string{"write", "zero", "trim"}[k] }

// Op is one request of a writer.
type Op struct {
	ID       uint64 // from 1, of this history
	Volume   int    // from 0
	Kind     Kind
	Off, Len int64 // bytes

	// Ticks of the history's clock; done is 0 while the writer waits.
	issued, done uint64
	// unrecorded ops were made while no tap was in place.
	unrecorded bool
	seen       int64          // bytes found in the journal
	zeroed     map[int64]bool // pieces found there, of a zero
}

func (o *Op) String() string {
	return fmt.Sprintf("%s %d of %d bytes at %d of volume %d", o.Kind, o.ID, o.Len, o.Off, o.Volume)
}

// Fill makes what o puts at byte off of its volume, which is a multiple of 8.
func (o *Op) Fill(p []byte, off int64) {
	if o.Kind != Write {
		clear(p)
		return
	}
	for i := 0; i+8 <= len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], word(o.ID, uint64(off+int64(i))))
	}
}

// word is the same for the same op and place, and for no others: the op's
// number can be read from it.
func word(id, off uint64) uint64 { return id<<32 | (off*0x9e3779b1)&0xffffffff }

// author is the number of the op that wrote a word.
func author(p []byte) uint64 { return binary.LittleEndian.Uint64(p) >> 32 }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// History is what was asked of some volumes. Its methods may be called at once
// from many goroutines.
type History struct {
	Sizes []int64 // bytes of each volume

	mu      sync.Mutex
	clock   uint64
	ops     []*Op // by ID-1
	byPlace map[place][]*Op
	// absent are unrecorded ops by the epoch before which they were made.
	absent map[uint64][]*Op
	open   []*Op // unrecorded, epoch not known yet
}

// place is where a piece of an op can begin in the journal.
type place struct {
	volume int
	off    int64
}

// tapMax is the longest request that a tap takes, in bytes; QEMU cuts longer ones.
const tapMax = 1 << 20

// NewHistory begins a history of volumes that read as zeroes.
func NewHistory(sizes ...int64) *History {
	return &History{Sizes: sizes, byPlace: map[place][]*Op{}, absent: map[uint64][]*Op{}}
}

// Begin notes a request that is about to be made.
func (h *History) Begin(volume int, k Kind, off, n int64) *Op {
	return h.begin(volume, k, off, n, false)
}

// BeginUnrecorded is Begin while no tap is in place. One such request at a time
// may be under way, so that their order is known.
func (h *History) BeginUnrecorded(volume int, k Kind, off, n int64) *Op {
	return h.begin(volume, k, off, n, true)
}

func (h *History) begin(volume int, k Kind, off, n int64, unrecorded bool) *Op {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	o := &Op{ID: uint64(len(h.ops) + 1), Volume: volume, Kind: k, Off: off, Len: n, issued: h.clock, unrecorded: unrecorded}
	h.ops = append(h.ops, o)
	switch {
	case unrecorded:
		h.open = append(h.open, o)
	case k != Trim:
		for at := off; at < off+n; at += tapMax {
			h.byPlace[place{volume, at}] = append(h.byPlace[place{volume, at}], o)
		}
	}
	return o
}

// Done notes that the writer was told that o is done.
func (h *History) Done(o *Op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	o.done = h.clock
}

// Recorded says that all unrecorded requests so far came before the epoch.
func (h *History) Recorded(epoch uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.absent[epoch] = append(h.absent[epoch], h.open...)
	h.open = nil
}

// Len is how many requests were begun.
func (h *History) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ops)
}

// match finds the op that an entry of the journal is a piece of; sure is false
// if it may as well be one that does the same. It is called once for each entry.
func (h *History) match(e Entry) (op *Op, sure bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.Kind != Write {
		return h.matchZero(e)
	}
	buf := make([]byte, e.Len)
	for _, o := range h.byPlace[place{e.Volume, e.Off}] {
		if o.Kind != Write || e.Off+e.Len > o.Off+o.Len {
			continue
		}
		if o.Fill(buf, e.Off); crc32.Checksum(buf, castagnoli) != e.CRC {
			continue
		}
		if o.seen += e.Len; o.seen > o.Len {
			return nil, false, fmt.Errorf("%v is there twice, from %v", e, o)
		}
		return o, true, nil
	}
	return nil, false, fmt.Errorf("%v has data that nobody wrote there", e)
}

// matchZero chooses, of several equal ops, the one that was done first.
func (h *History) matchZero(e Entry) (best *Op, sure bool, err error) {
	equal := 0
	for _, o := range h.byPlace[place{e.Volume, e.Off}] {
		if o.Kind != Zero || min(tapMax, o.Off+o.Len-e.Off) != e.Len {
			continue
		}
		if equal++; o.zeroed[e.Off] {
			continue
		}
		if best == nil || o.done != 0 && (best.done == 0 || o.done < best.done) {
			best = o
		}
	}
	if best == nil {
		return nil, false, fmt.Errorf("%v was asked for by nobody, or is there twice", e)
	}
	if best.zeroed == nil {
		best.zeroed = map[int64]bool{}
	}
	best.zeroed[e.Off] = true
	best.seen += e.Len
	return best, equal == 1, nil
}
