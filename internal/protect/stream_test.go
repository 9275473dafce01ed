package protect

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
)

// write is a tap's write as it lies in the ring.
func write(seq journal.Seq, off int64, data []byte) []byte {
	h := journal.Header{Op: journal.OpWrite, Seq: seq, Volume: 1, Off: off, Len: uint32(len(data)), PayloadLen: uint32(len(data)), Time: 1}
	p := make([]byte, h.Size())
	h.Encode(p)
	copy(p[journal.EntryHeaderSize:], data)
	journal.CommitEntry(p)
	return p
}

// streamOn is a stream into a fresh journal that is in epoch 1.
func streamOn(t *testing.T) (*stream, testView) {
	r := openReplica(t, vfs.OS(), t.TempDir(), Spec{ID: journal.GroupID{1}, Volumes: []Volume{{ID: 1, VM: "v", Disk: "d", Size: 1 << 20}}})
	t.Cleanup(r.close)
	s := newStream(LocalJournal{r.log})
	if err := s.control(0, journal.VolumeAdded{Volume: 1, Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	if err := s.control(1, journal.Attach{}); err != nil {
		t.Fatal(err)
	}
	return s, r.at(1, ^journal.Seq(0))
}

func (s *stream) taps(t *testing.T, first journal.Seq, p []byte) {
	t.Helper()
	if err := s.appendWrites(journal.Batch{Kind: journal.KindWrites, Epoch: 1, First: first, Regions: [][]byte{p}}); err != nil {
		t.Fatal(err)
	}
}

// What a tap wrote after the read began is newer than what was read.
func TestCommitLeavesOutWhatTheTapWrote(t *testing.T) {
	s, view := streamOn(t)
	last := journal.Seq(1)
	y := &syncStream{stream: s, volume: 1, epoch: 1, last: func() journal.Seq { return last }}
	before := write(2, 0, bytes.Repeat([]byte{1}, 4096))
	s.taps(t, 2, before)
	r := block.Range{Off: 0, Len: 16384}
	ticket := y.Begin(r)
	s.taps(t, 3, write(3, 4096, bytes.Repeat([]byte{2}, 512)))
	last = 4 // received, and not yet in the journal
	committed := make(chan error, 1)
	go func() { committed <- y.Commit(t.Context(), ticket, r, bytes.Repeat([]byte{9}, 16384)) }()
	s.taps(t, 4, write(4, 12288, bytes.Repeat([]byte{3}, 8192)))
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	y.End(ticket)

	want := bytes.Repeat([]byte{9}, 24576)
	copy(want[4096:], bytes.Repeat([]byte{2}, 512))
	copy(want[12288:], bytes.Repeat([]byte{3}, 8192))
	clear(want[20480:])
	got := make([]byte, len(want))
	if _, err := view.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("sync data lies over a newer write, or is missing")
	}
	if len(s.tickets) != 0 {
		t.Errorf("%d tickets are left", len(s.tickets))
	}
}

// A commit must not wait for ever for writes that will never come.
func TestCommitEndsWithTheRing(t *testing.T) {
	s, _ := streamOn(t)
	y := &syncStream{stream: s, volume: 1, epoch: 1, last: func() journal.Seq { return 100 }}
	r := block.Range{Len: 4096}
	ticket := y.Begin(r)
	defer y.End(ticket)
	done := make(chan error, 1)
	go func() { done <- y.Commit(t.Context(), ticket, r, nil) }()
	s.end(errStopped)
	if err := <-done; err == nil {
		t.Error("commit said that it stored what it could not know to be newest")
	}
}

// A commit does not wait until writes have been gathered for long.
func TestCommitHurries(t *testing.T) {
	s, _ := streamOn(t)
	y := &syncStream{stream: s, volume: 1, epoch: 1, last: func() journal.Seq { return 2 }}
	hurried := make(chan struct{})
	s.begin(func() { close(hurried) })
	r := block.Range{Len: 4096}
	ticket := y.Begin(r)
	defer y.End(ticket)
	done := make(chan error, 1)
	go func() { done <- y.Commit(t.Context(), ticket, r, nil) }()
	<-hurried
	s.taps(t, 2, write(2, 0, bytes.Repeat([]byte{1}, 4096)))
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A sync leaves the reserve of the journal's disk alone, as the taps' writes do.
func TestSyncStopsAtTheReserve(t *testing.T) {
	s := newStream(nil) // the journal is not even asked
	full := &SpaceError{}
	y := &syncStream{stream: s, volume: 1, epoch: 1, last: func() journal.Seq { return 0 }, room: func(context.Context) error { return full }}
	r := block.Range{Len: 4096}
	ticket := y.Begin(r)
	defer y.End(ticket)
	if err := y.Commit(t.Context(), ticket, r, make([]byte, 4096)); !errors.Is(err, full) {
		t.Errorf("commit on a full disk: %v", err)
	}
	if _, err := (sparingBase{nil, func() error { return full }}).WriteAt(nil, 0); !errors.Is(err, full) {
		t.Errorf("copy to a full disk: %v", err)
	}
}
