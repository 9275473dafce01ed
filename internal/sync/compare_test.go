package sync

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"testing"

	"github.com/rephub/rephub/block"
)

// differ changes some blocks of a copy of m, partly to zeroes.
func differ(m *memory, seed uint64, changes int) (*memory, map[int64]bool) {
	c := newMemory(int64(len(m.data)))
	copy(c.data, m.data)
	r := rand.New(rand.NewPCG(seed, 2))
	changed := make(map[int64]bool)
	for range changes {
		off := r.Int64N(int64(len(m.data))) / Block * Block
		p := c.data[off:min(off+Block, int64(len(m.data)))]
		if r.IntN(3) == 0 {
			clear(p)
		} else {
			p[r.IntN(len(p))] ^= 0x55
		}
		changed[off] = !bytes.Equal(p, m.data[off:off+int64(len(p))])
	}
	return c, changed
}

func TestCompareCommitsWhatDiffersOnly(t *testing.T) {
	for _, holes := range []bool{true, false} {
		src := newMemory(testSize).fill(10, 0.4)
		src.holes = holes
		replica, changed := differ(src, 11, 300)
		s := newStream(t, replica)
		if err := Compare(t.Context(), source{src}, NewCurrent(device{replica}), s, Options{Volume: "vm/d"}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(replica.data, src.data) {
			t.Fatal("replica differs from the source")
		}
		var want, got int64
		for off, c := range changed {
			if c {
				want += min(Block, testSize-off)
			}
		}
		for _, r := range s.commits {
			got += r.Len
		}
		if got != want {
			t.Errorf("%d bytes committed, %d differ", got, want)
		}
	}
}

func TestCompareSkipsHolesOnBothSides(t *testing.T) {
	src, replica := newMemory(testSize), newMemory(testSize)
	src.data[30<<20] = 1
	if err := Compare(t.Context(), source{src}, NewCurrent(device{replica}), newStream(t, replica), Options{}); err != nil {
		t.Fatal(err)
	}
	if n := src.reads.Load() + replica.reads.Load(); n != 2 {
		t.Errorf("%d reads, 2 expected", n)
	}
}

// The guest writes all the time, also between the source's answer and the
// commit: replica and source are equal in the end.
func TestCompareWhileTheTapWrites(t *testing.T) {
	for seed := range uint64(5) {
		src := newMemory(8<<20).fill(20+seed, 0.5)
		replica, _ := differ(src, 30+seed, 500)
		s := newStream(t, replica)
		write := s.guest(src, seed)
		src.beforeRead, src.afterRead = write, write
		replica.beforeRead, replica.afterRead = write, write
		if err := Compare(t.Context(), source{src}, NewCurrent(device{replica}), s, Options{RequestSize: 64 << 10}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(replica.data, src.data) {
			t.Fatalf("seed %d: replica differs from the source", seed)
		}
	}
}

func ranges(list ...block.Range) iter.Seq2[block.Range, error] {
	return func(yield func(block.Range, error) bool) {
		for _, r := range list {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func TestRangesTouchesDirtyRangesOnly(t *testing.T) {
	src := newMemory(testSize).fill(40, 0.5)
	replica, _ := differ(src, 41, 2000)
	before := bytes.Clone(replica.data)
	dirty := []block.Range{{Off: 64 << 10, Len: 128 << 10}, {Off: 8 << 20, Len: 12 << 20}, {Off: 39 << 20, Len: testSize - 39<<20}}
	var last Progress
	opt := RangesOptions{Options: Options{Progress: func(p Progress) { last = p }}}
	for _, r := range dirty {
		opt.Total += r.Len
	}
	if err := Ranges(t.Context(), source{src}, NewCurrent(device{replica}), ranges(dirty...), newStream(t, replica), opt); err != nil {
		t.Fatal(err)
	}
	for _, r := range dirty {
		copy(before[r.Off:r.End()], src.data[r.Off:r.End()])
	}
	if !bytes.Equal(before, replica.data) {
		t.Error("what is dirty differs, or something else changed")
	}
	if last.Done != opt.Total || last.Total != opt.Total {
		t.Errorf("progress ends with %+v, want %d", last, opt.Total)
	}
}

func TestRangesErrors(t *testing.T) {
	bad := errors.New("bad")
	failing := func(yield func(block.Range, error) bool) {
		_ = yield(block.Range{Len: Block}, nil) && yield(block.Range{Off: Block}, bad)
	}
	src, replica := newMemory(testSize).fill(50, 0.5), newMemory(testSize)
	err := Ranges(t.Context(), source{src}, NewCurrent(device{replica}), failing, newStream(t, replica), RangesOptions{Options: Options{Volume: "vm/d"}})
	var e *Error
	if !errors.Is(err, bad) || !errors.As(err, &e) || e.Volume != "vm/d" || e.Off != Block {
		t.Errorf("bitmap error: %v", err)
	}
	for _, op := range []string{"read", "commit", "replica"} {
		s := newStream(t, replica)
		src.fail, replica.fail = nil, nil
		switch op {
		case "read":
			src.fail = func(o string, off, n int64) error {
				if o == "read" && off > 20<<20 {
					return bad
				}
				return nil
			}
		case "replica":
			replica.fail = func(o string, off, n int64) error {
				if o == "read" && off > 20<<20 {
					return bad
				}
				return nil
			}
			replica.data[21<<20] = 1
		case "commit":
			s.fail = bad
		}
		if err := Compare(context.Background(), source{src}, NewCurrent(device{replica}), s, Options{Volume: "vm/d"}); !errors.Is(err, bad) || !errors.As(err, &e) {
			t.Errorf("%s: %v", op, err)
		}
	}
}
