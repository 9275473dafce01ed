package sync

import (
	"bytes"
	"math/rand/v2"
	stdsync "sync"
	"sync/atomic"
	"testing"
)

// What differs is read once more, and nothing else; where most differs, nothing is.
func TestSheetsReadAgainWhatDiffers(t *testing.T) {
	const piece = 256 << 10
	for name, c := range map[string]struct {
		size    int64
		changes int
		again   int64 // bytes that may be read twice
	}{
		"nothing":    {16 << 20, 0, 0},
		"a little":   {16 << 20, 20, 20 * piece},
		"everything": {144 << 20, 5 * 144 << 20 / Block, (maxSheets + 1) * maxCompare}, // until the first answer comes
	} {
		t.Run(name, func(t *testing.T) {
			src := newMemory(c.size).fill(1, 0.9)
			src.holes = false
			replica, _ := differ(src, 2, c.changes)
			var read atomic.Int64
			src.beforeRead = func(_, n int64) { read.Add(n) }
			var last Progress
			opt := Options{RequestSize: piece, Requests: 2, Progress: func(p Progress) { last = p }}
			if err := Compare(t.Context(), source{src}, newDistant(t, newHashes(t, replica)).Current, newStream(t, replica), opt); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(replica.data, src.data) {
				t.Error("replica differs from the source")
			}
			if n := read.Load(); n < c.size || n > c.size+c.again {
				t.Errorf("%d bytes were read, %d at most are right", n, c.size+c.again)
			}
			if last.Done != c.size {
				t.Errorf("%d of %d bytes are done", last.Done, c.size)
			}
		})
	}
}

// Behind a part that differs, questions are about much again.
func TestSheetsComeBack(t *testing.T) {
	const size, changed, piece = 64 << 20, 16 << 20, 16 << 10
	src := newMemory(size).fill(3, 0.9)
	src.holes = false
	replica := newMemory(size)
	copy(replica.data[changed:], src.data[changed:])
	h := newHashes(t, replica)
	answered := make(chan struct{})
	var once stdsync.Once
	replica.afterRead = func(_, _ int64) { once.Do(func() { close(answered) }) }
	src.beforeRead = func(off, _ int64) {
		if off >= changed/2 {
			<-answered
		}
	}
	if err := Compare(t.Context(), source{src}, newDistant(t, h).Current, newStream(t, replica), Options{RequestSize: piece}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(replica.data, src.data) {
		t.Error("replica differs from the source")
	}
	if n := h.asked.Load(); n > size/piece/2 {
		t.Errorf("%d questions about %d pieces", n, size/piece)
	}
}

// The guest writes all the time, also between the first reading and the answer, and
// between the answer and the second reading.
func TestSheetsWhileTheTapWrites(t *testing.T) {
	for seed := range uint64(4) {
		src := newMemory(12<<20).fill(100+seed, 0.9)
		src.holes = false
		replica, _ := differ(src, 110+seed, 60)
		s := newStream(t, replica)
		s.far = rand.New(rand.NewPCG(seed, 7))
		write := s.guest(src, seed)
		src.beforeRead, src.afterRead = write, write
		replica.beforeRead, replica.afterRead = write, write
		opt := Options{RequestSize: []int{64 << 10, 256 << 10, 12 << 10, 4 << 10}[seed], Requests: 4}
		if err := Compare(t.Context(), source{src}, newDistant(t, newHashes(t, replica)).Current, s, opt); err != nil {
			t.Fatal(err)
		}
		s.arrive(0)
		if !bytes.Equal(replica.data, src.data) {
			t.Fatalf("seed %d: replica differs from the source", seed)
		}
	}
}
