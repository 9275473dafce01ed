package sync

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rephub/rephub/block"
)

const testSize = 40<<20 + 1536 // the last block is short, and windows do not fit

func TestFullCopiesEverything(t *testing.T) {
	for _, part := range []float64{0, 0.3, 1} {
		src := newMemory(testSize).fill(1, part)
		base := newMemory(testSize)
		var last Progress
		err := Full(t.Context(), source{src}, base, FullOptions{Options: Options{Volume: "vm/d", Progress: func(p Progress) { last = p }}})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(base.data, src.data) {
			t.Errorf("part %v: base differs from the source", part)
		}
		if last.Done != testSize || last.Total != testSize || last.Copied != base.written.Load() {
			t.Errorf("part %v: progress ends with %+v", part, last)
		}
		if base.synced.Load() == 0 {
			t.Errorf("part %v: base was not synced", part)
		}
	}
}

// Zero blocks that the source calls data stay holes, and are not written.
func TestFullFindsZeroes(t *testing.T) {
	src := newMemory(testSize).fill(2, 0.3)
	src.holes = false
	base := newMemory(testSize)
	if err := Full(t.Context(), source{src}, base, FullOptions{}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(base.data, src.data) {
		t.Fatal("base differs from the source")
	}
	var nonzero int64
	for off := 0; off < testSize; off += Block {
		if p := src.data[off:min(off+Block, testSize)]; !isZero(p) {
			nonzero += int64(len(p))
		}
	}
	if got := base.written.Load(); got != nonzero {
		t.Errorf("%d bytes written, %d are not zero", got, nonzero)
	}
}

// A sync that is slow notes how far it is by time, too.
func TestFullNotesItsProgressInTime(t *testing.T) {
	src, base := newMemory(testSize).fill(3, 0.5), newMemory(testSize)
	var clock atomic.Int64
	notes := 0
	opt := FullOptions{CheckpointEvery: 1 << 40, CheckpointAfter: time.Second, Checkpoint: func(int64) error { notes++; return nil }}
	opt.Now = func() time.Time { return time.Unix(clock.Add(1), 0) } // each look a second later
	if err := Full(t.Context(), source{src}, base, opt); err != nil {
		t.Fatal(err)
	}
	if notes < 2 {
		t.Errorf("%d checkpoints, with the one at the end", notes)
	}
}

// A sync that stops at any operation, and is resumed from its last checkpoint on
// a base that lost everything not synced, ends with an equal base.
func TestFullResumes(t *testing.T) {
	src := newMemory(testSize).fill(3, 0.5)
	for _, stop := range []int64{1, 7, 40, 79} {
		base, durable := newMemory(testSize), newMemory(testSize)
		var from int64
		opt := FullOptions{CheckpointEvery: 1 << 20, Checkpoint: func(done int64) error {
			if done < from {
				t.Errorf("checkpoint goes back from %d to %d", from, done)
			}
			from = done
			// what a crash leaves at worst: all below the checkpoint, garbage above
			base.mu.Lock()
			defer base.mu.Unlock()
			copy(durable.data[:done], base.data[:done])
			return nil
		}}
		opt.Requests = 4
		var calls atomic.Int64
		cut := errors.New("cut")
		base.fail = func(op string, off, n int64) error {
			if op == "sync" {
				return nil
			}
			if calls.Add(1) > stop {
				return cut
			}
			return nil
		}
		if err := Full(t.Context(), source{src}, base, opt); !errors.Is(err, cut) {
			t.Fatalf("stop %d: %v", stop, err)
		}
		for i := from; i < testSize; i++ {
			durable.data[i] = 0xdd
		}
		opt.From = from
		if err := Full(t.Context(), source{src}, durable, FullOptions{Options: opt.Options, From: from}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(durable.data, src.data) {
			t.Errorf("stop %d: resumed from %d, the base differs", stop, from)
		}
	}
}

// A checkpoint is told only after a sync that began when all below it was written.
func TestFullSyncsBeforeCheckpoint(t *testing.T) {
	src, base := newMemory(testSize).fill(4, 1), newMemory(testSize)
	var covered int64
	var low func() int64
	base.fail = func(op string, off, n int64) error {
		if op == "sync" {
			covered = low()
			for deadline := time.Now().Add(20 * time.Second); low() == covered && covered < testSize; runtime.Gosched() {
				if time.Now().After(deadline) {
					return errors.New("readers wait for the sync")
				}
			}
		}
		return nil
	}
	f := &full{src: source{src}, base: base, opt: &FullOptions{CheckpointEvery: 1 << 20}}
	f.opt.EnsureDefaults()
	f.meter = newMeter(&f.opt.Options, 0, testSize)
	low = f.low.get
	f.opt.Checkpoint = func(done int64) error {
		if done > covered {
			t.Errorf("checkpoint %d, but only %d were written when the sync began", done, covered)
		}
		return nil
	}
	if err := f.run(t.Context(), block.Range{Len: testSize}); err != nil {
		t.Fatal(err)
	}
}

func TestFullErrors(t *testing.T) {
	bad := errors.New("bad sector")
	for _, op := range []string{"read", "status", "write", "zero", "sync"} {
		t.Run(op, func(t *testing.T) {
			src, base := newMemory(testSize).fill(5, 0.5), newMemory(testSize)
			src.fail = func(o string, off, n int64) error {
				if o == op && off+n > 9<<20 {
					return bad
				}
				return nil
			}
			base.fail = func(o string, off, n int64) error {
				if o == op && (o == "sync" || off > 9<<20) {
					return bad
				}
				return nil
			}
			err := Full(t.Context(), source{src}, base, FullOptions{Options: Options{Volume: "vm/d"}})
			var e *Error
			if !errors.Is(err, bad) || !errors.As(err, &e) || e.Volume != "vm/d" {
				t.Fatalf("got %v", err)
			}
			if op != "sync" && e.Off+e.Len <= 9<<20 {
				t.Errorf("error at %d, %d bytes", e.Off, e.Len)
			}
		})
	}
}

func TestFullCheckpointErrorEnds(t *testing.T) {
	src, base := newMemory(testSize).fill(5, 1), newMemory(testSize)
	bad := errors.New("no")
	err := Full(t.Context(), source{src}, base, FullOptions{CheckpointEvery: 1 << 20, Checkpoint: func(int64) error { return bad }})
	if !errors.Is(err, bad) {
		t.Fatalf("got %v", err)
	}
}

func TestSizeChanges(t *testing.T) {
	var size *SizeError
	src, base := newMemory(testSize).fill(6, 0.5), newMemory(testSize)
	if err := Full(t.Context(), source{src}, base, FullOptions{Options: Options{Size: testSize + 1}}); !errors.As(err, &size) {
		t.Errorf("wrong size at start: %v", err)
	}
	src.beforeRead = func(off, n int64) { src.resized.Store(testSize / 2) }
	if err := Full(t.Context(), source{src}, base, FullOptions{}); !errors.As(err, &size) || size.Got != testSize/2 {
		t.Errorf("resized while syncing: %v", err)
	}
	src.resized.Store(0)
	src.beforeRead = nil
	if err := Compare(t.Context(), source{src}, NewCurrent(device{newMemory(testSize - Block)}), newStream(t, base), Options{}); !errors.As(err, &size) || size.What != "replica" {
		t.Errorf("short replica: %v", err)
	}
}

// A source that hangs costs the context's time only.
func TestHangingSource(t *testing.T) {
	for _, op := range []string{"read", "status"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("deadline")
		src := hanging{source{newMemory(testSize).fill(7, 0.5)}, op, cancel, gone}
		if err := Full(ctx, src, newMemory(testSize), FullOptions{}); !errors.Is(err, gone) {
			t.Errorf("%s: %v", op, err)
		}
		ctx, cancel = context.WithCancelCause(t.Context())
		src.cancel = cancel
		replica := newMemory(testSize)
		if err := Compare(ctx, src, NewCurrent(device{replica}), newStream(t, replica), Options{}); !errors.Is(err, gone) {
			t.Errorf("compare, %s: %v", op, err)
		}
	}
}

type hanging struct {
	source
	op     string
	cancel context.CancelCauseFunc
	cause  error
}

func (h hanging) hang(ctx context.Context) error {
	h.cancel(h.cause) // stands for the deadline
	<-ctx.Done()
	return context.Cause(ctx)
}

func (h hanging) ReadAt(ctx context.Context, p []byte, off int64) error {
	if h.op == "read" && off > 20<<20 {
		return h.hang(ctx)
	}
	return h.source.ReadAt(ctx, p, off)
}

func (h hanging) Allocated(ctx context.Context, off, n int64) ([]block.Extent, error) {
	if h.op == "status" && off > 1<<20 {
		return nil, h.hang(ctx)
	}
	return h.source.Allocated(ctx, off, n)
}

func TestOptionsBoundMemory(t *testing.T) {
	o := Options{Requests: 64, RequestSize: 1 << 20}
	if err := o.Validate(); err == nil {
		t.Error("64 MiB of buffers were accepted")
	}
	for _, bad := range []Options{{Requests: -1}, {RequestSize: 1000}, {Size: -1}} {
		if err := bad.Validate(); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

func TestLowWaterWaitsForGaps(t *testing.T) {
	w := lowWater{low: 10}
	for _, c := range []struct{ off, n, want int64 }{
		{20, 5, 10}, {30, 5, 10}, {10, 5, 15}, {15, 5, 25}, {25, 5, 35}, {35, 1, 36},
	} {
		if got := w.add(block.Range{Off: c.off, Len: c.n}); got != c.want || w.get() != c.want {
			t.Errorf("after %d+%d the mark is %d, expected %d", c.off, c.n, got, c.want)
		}
	}
}
