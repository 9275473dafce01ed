package model

import (
	"bytes"
	"fmt"
	"slices"
)

// Entry is a tap write in the journal: when, where, what kind, and a checksum
// of what.
type Entry struct {
	Seq, Epoch uint64
	Volume     int
	Kind       Kind
	Off, Len   int64
	CRC        uint32
}

func (e Entry) String() string {
	return fmt.Sprintf("seq %d, %s of %d bytes at %d of volume %d", e.Seq, e.Kind, e.Len, e.Off, e.Volume)
}

// piece is an entry with the op that it came from.
type piece struct {
	Entry
	op *Op
}

// Replay is a history in the order that a journal gave it.
type Replay struct {
	h      *History
	pieces []piece
	epochs map[uint64]uint64 // first seq of each
	newest uint64            // greatest issued tick of all pieces
}

// Replay begins the order of a history.
func (h *History) Replay() *Replay { return &Replay{h: h, epochs: map[uint64]uint64{}} }

// Last is the seq of the last entry added.
func (r *Replay) Last() uint64 {
	if len(r.pieces) == 0 {
		return 0
	}
	return r.pieces[len(r.pieces)-1].Seq
}

// Add takes the journal's next entry. It fails if nobody asked for it, if it is
// there a second time, and if its place is behind a request that was made only
// after the writer had been told that this one is done.
func (r *Replay) Add(e Entry) error {
	if e.Seq <= r.Last() {
		return fmt.Errorf("%v comes after seq %d", e, r.Last())
	}
	o, sure, err := r.h.match(e)
	if err != nil {
		return err
	}
	r.h.mu.Lock()
	late := sure && o.done != 0 && o.done < r.newest
	r.h.mu.Unlock()
	if late {
		return fmt.Errorf("%v (%v) stands behind a request that was made after it was done", e, o)
	}
	if sure {
		r.newest = max(r.newest, o.issued)
	}
	r.pieces = append(r.pieces, piece{e, o})
	return nil
}

// Attach notes that an epoch begins at a seq. It may be told twice.
func (r *Replay) Attach(seq, epoch uint64) { r.epochs[epoch] = seq }

// Complete fails if something that a writer was told is done is not there. It
// is for a moment at which nobody writes and all is journaled.
func (r *Replay) Complete() error {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	for _, o := range r.h.ops {
		if !o.unrecorded && o.Kind != Trim && o.done != 0 && o.seen != o.Len {
			return fmt.Errorf("%v is done, and %d bytes of it are in the journal", o, o.seen)
		}
	}
	return nil
}

// State is what the volumes hold at some seq. It only moves forward.
type State struct {
	r       *Replay
	next    int // piece
	absent  map[uint64]bool
	Volumes [][]byte
}

// State is the volumes before the first entry.
func (r *Replay) State() *State {
	s := &State{r: r, absent: map[uint64]bool{}}
	for _, n := range r.h.Sizes {
		s.Volumes = append(s.Volumes, make([]byte, n))
	}
	return s
}

// To moves the state to a seq.
func (s *State) To(seq uint64) error {
	if s.next > 0 && s.r.pieces[s.next-1].Seq > seq {
		return fmt.Errorf("state is at seq %d, past %d", s.r.pieces[s.next-1].Seq, seq)
	}
	for ; s.next < len(s.r.pieces) && s.r.pieces[s.next].Seq <= seq; s.next++ {
		p := s.r.pieces[s.next]
		s.unrecorded(p.Seq)
		p.op.Fill(s.Volumes[p.Volume][p.Off:p.Off+p.Len], p.Off)
	}
	s.unrecorded(seq)
	return nil
}

// unrecorded applies what was made while no tap was in place, before the epochs
// that have begun at a seq.
func (s *State) unrecorded(seq uint64) {
	s.r.h.mu.Lock()
	defer s.r.h.mu.Unlock()
	var begun []uint64
	for epoch := range s.r.h.absent {
		if first, ok := s.r.epochs[epoch]; ok && first <= seq && !s.absent[epoch] {
			begun = append(begun, epoch)
		}
	}
	slices.Sort(begun)
	for _, epoch := range begun {
		s.absent[epoch] = true
		for _, o := range s.r.h.absent[epoch] {
			if o.Kind != Trim {
				o.Fill(s.Volumes[o.Volume][o.Off:o.Off+o.Len], o.Off)
			}
		}
	}
}

// Diff compares a volume with what it must hold, and names the first byte that
// differs and the ops whose data is there.
func (s *State) Diff(volume int, got []byte) error {
	want := s.Volumes[volume]
	if len(got) != len(want) {
		return fmt.Errorf("volume %d has %d bytes, must have %d", volume, len(got), len(want))
	}
	if bytes.Equal(got, want) {
		return nil
	}
	first, blocks := -1, 0
	for i := 0; i < len(want); i += 512 {
		end := min(i+512, len(want))
		if !bytes.Equal(got[i:end], want[i:end]) {
			if first < 0 {
				first = i
			}
			blocks++
		}
	}
	return fmt.Errorf("volume %d differs in %d sectors, the first at byte %d: it has data of op %d, must have that of op %d",
		volume, blocks, first, author(got[first:]), author(want[first:]))
}
