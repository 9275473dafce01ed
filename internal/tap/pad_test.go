package tap

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rephub/rephub/journal"
)

// TestUnfinishedBehindSkip: while an entry at the beginning of a chunk is not
// finished, the skip that leads to it is nothing to return for.
func TestUnfinishedBehindSkip(t *testing.T) {
	p, c := pair(t, heapRing(t, MinRing), ProducerConfig{})
	for p.ring.head.head.Load() <= p.ring.chunk {
		p.Write(1, 0, make([]byte, 1000)) // a chunk is no multiple of such entries
	}
	off, _ := p.ring.place(p.ring.chunk)
	atomic.StoreUint32(word(p.ring.data, off), 0) // as before its commit
	run, ok, err := c.Next(1 << 20)
	if err != nil || !ok || run.end >= p.ring.chunk {
		t.Fatalf("%d entries, %v", run.Count, err)
	}
	if err := c.Release(run); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := c.Next(1 << 20); ok || err != nil {
		t.Fatalf("an unfinished entry was handed out (err %v)", err)
	}
	_ = c.Wait(t.Context()) // the state is new to the first one
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait returned %v with nothing to hand out", err)
	}
	journal.CommitEntry(p.ring.data[off:])
	if run, ok, err := c.Next(1 << 20); !ok || err != nil || run.Count != 1 {
		t.Errorf("after it is finished: %d entries, %v", run.Count, err)
	}
}
