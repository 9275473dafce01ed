package tap

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rephub/rephub/journal"
)

// pages is how many bytes of memory the ring's memfd holds.
func pages(t *testing.T, r *Ring) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(r.memfd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// TestTrim: a busy ring takes memory as it needs it, an idle one gives it back.
func TestTrim(t *testing.T) {
	mem := NewMemory(1 << 30)
	p, c := pair(t, newRing(t, 64<<20), ProducerConfig{Memory: mem})
	block := make([]byte, 64<<10)
	for range 4000 { // 250 MiB, but never more than two blocks unread
		p.Write(1, 0, block)
		takeAll(t, c, 1<<20)
	}
	if n := pages(t, p.ring); n > 9<<20 {
		t.Errorf("a ring that is read at once holds %d bytes", n)
	}
	for range 600 {
		p.Write(1, 0, block)
	}
	if n, m := pages(t, p.ring), mem.Used(); n < 37<<20 || n > m+8*pageSize {
		t.Fatalf("600 writes hold %d bytes, %d counted", n, m)
	}
	if got := takeAll(t, c, 1<<20); len(got) != 600 {
		t.Fatalf("%d entries", len(got))
	}
	trim := func(times int) {
		t.Helper()
		for range times {
			if err := p.Trim(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 4 { // a light load goes on
		p.Write(1, 0, block)
		trim(1)
		takeAll(t, c, 1<<20)
	}
	if n := pages(t, p.ring); n > 13<<20 {
		t.Errorf("after a burst a light load holds %d bytes", n)
	}
	p.Write(1, 0, bytes.Repeat([]byte{9}, 100))
	trim(5)
	if got := takeAll(t, c, 1<<20); len(got) != 1 || got[0].payload[99] != 9 {
		t.Fatalf("an unread entry did not survive: %+v", got)
	}
	trim(3)
	if n, m := pages(t, p.ring), mem.Used(); n > 4*pageSize || m != 0 {
		t.Errorf("idle ring holds %d bytes, %d counted", n, m)
	}
	for i := range 100 {
		p.Write(1, int64(i), block)
	}
	if got := takeAll(t, c, 1<<20); len(got) != 100 {
		t.Fatalf("%d entries after idling", len(got))
	}
}

// TestMemoryBudget: rings share one budget, and the one that finds it empty goes void; others are not hurt.
func TestMemoryBudget(t *testing.T) {
	mem := NewMemory(12 << 20)
	cfg := ProducerConfig{Memory: mem, VoidAfter: time.Millisecond}
	p1, c1 := pair(t, newRing(t, 64<<20), cfg)
	p2, c2 := pair(t, newRing(t, 64<<20), cfg)
	block := make([]byte, 64<<10)
	p2.Write(1, 0, block)
	for range 300 {
		p1.Write(1, 0, block)
	}
	if s := c1.State(); !s.Void || s.Reason != VoidMemory || mem.Used() > 12<<20 {
		t.Fatalf("state %+v, %d bytes used", s, mem.Used())
	}
	takeAll(t, c2, 1<<20)
	for range 50 { // its memory is enough for a consumer that keeps up
		p2.Write(1, 0, block[:30<<10])
		takeAll(t, c2, 1<<20)
	}
	if s := c2.State(); s.Void {
		t.Fatalf("the other ring: %+v", s)
	}
	n := uint64(len(takeAll(t, c1, 1<<20)))
	if s := c1.State(); n+s.VoidWrites != 300 {
		t.Fatalf("%d entries, state %+v", n, s)
	}
	p1.Close()
	p2.Close()
	if mem.Used() != 0 {
		t.Fatalf("%d bytes still counted", mem.Used())
	}
}

// TestConsumerReplaced: a consumer that another one has taken over from cannot move the ring any more.
func TestConsumerReplaced(t *testing.T) {
	p, old := pair(t, newRing(t, MinRing), ProducerConfig{})
	for i := range 4 {
		p.Write(1, int64(i), []byte("x"))
	}
	run, _, err := old.Next(100) // one entry
	if err != nil {
		t.Fatal(err)
	}
	fresh := reopen(t, p.ring)
	got := takeAll(t, fresh, 1<<20)
	if len(got) != 4 || got[0].Seq != run.First {
		t.Fatalf("the new consumer got %d entries", len(got))
	}
	if err := old.Release(run); !errors.Is(err, ErrReplaced) {
		t.Errorf("Release: %v", err)
	}
	if _, _, err := old.Next(100); !errors.Is(err, ErrReplaced) {
		t.Errorf("Next: %v", err)
	}
	if s := fresh.State(); s.Used != 0 || s.Consumed != 4 {
		t.Errorf("state %+v", s)
	}
}

// reopen maps the ring once more, as another process does, and consumes it.
func reopen(t *testing.T, r *Ring) *Consumer {
	t.Helper()
	memfd, err1 := unix.FcntlInt(uintptr(r.memfd), unix.F_DUPFD_CLOEXEC, 0)
	event, err2 := unix.FcntlInt(uintptr(r.event), unix.F_DUPFD_CLOEXEC, 0)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	m, err := MapRing(memfd, event)
	must(t, m, err)
	cons, err := NewConsumer(m)
	must(t, cons, err)
	t.Cleanup(func() { cons.Close() })
	return cons
}

// TestMapRefusals: what is not a ring of this version is refused with its reason, and never mapped blindly.
func TestMapRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		want   error
		damage func(*header)
	}{
		"magic":     {ErrCorrupt, func(h *header) { h.magic++ }},
		"version":   {ErrIncompatible, func(h *header) { h.version++ }},
		"checksum":  {ErrCorrupt, func(h *header) { h.id[3]++ }},
		"layout":    {ErrCorrupt, func(h *header) { h.dataSize *= 2; h.crc = h.fixedCRC() }},
		"positions": {ErrCorrupt, func(h *header) { h.tail.Store(8) }},
		"too much":  {ErrCorrupt, func(h *header) { h.head.Store(1 << 40) }},
		"unaligned": {ErrCorrupt, func(h *header) { h.head.Store(9) }},
	} {
		r := newRing(t, MinRing)
		c.damage(r.head)
		memfd, _ := unix.FcntlInt(uintptr(r.memfd), unix.F_DUPFD_CLOEXEC, 0)
		event, _ := unix.FcntlInt(uintptr(r.event), unix.F_DUPFD_CLOEXEC, 0)
		if _, err := MapRing(memfd, event); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		r.Close()
	}
	unsealed, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	must(t, unsealed, err)
	event, err := unix.Eventfd(0, 0)
	must(t, event, err)
	if _, err := MapRing(unsealed, event); !errors.Is(err, ErrCorrupt) {
		t.Errorf("unsealed memory: %v", err)
	}
}

// TestBrokenConsumer: whatever a consumer's process writes to its fields, the producer answers and goes void.
func TestBrokenConsumer(t *testing.T) {
	for _, tail := range []uint64{1, 8 << 20, 1 << 63, 4} {
		p, c := pair(t, newRing(t, MinRing), ProducerConfig{})
		p.Write(1, 0, []byte("x"))
		c.ring.head.tail.Store(tail)
		p.Write(1, 0, []byte("y"))
		if s := c.State(); !s.Void || s.Reason != VoidCorrupt || s.Cut != 1 {
			t.Errorf("tail %d: state %+v", tail, s)
		}
		if err := p.Unvoid(2, 9); !errors.Is(err, ErrCorrupt) {
			t.Errorf("tail %d: Unvoid: %v", tail, err)
		}
	}
}

// TestWaitEnds: with its context, on Wake, and on a change of state.
func TestWaitEnds(t *testing.T) {
	p, c := pair(t, newRing(t, MinRing), ProducerConfig{})
	if err := c.Wait(t.Context()); err != nil { // Unvoid was a change
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	wait := func() { done <- c.Wait(ctx) }
	go wait()
	for c.ring.head.sleeping.Load() == 0 {
		select {
		case err := <-done:
			t.Fatalf("Wait returned for nothing: %v", err)
		default:
		}
	}
	p.Void()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(ctx); err != nil { // the change, seen once more
		t.Fatal(err)
	}
	go wait()
	c.Wake()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	go wait()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// FuzzConsumer runs a consumer over a ring in which bytes were changed: it may find ErrCorrupt, and must neither panic, nor run on
// for ever, nor give out anything that is not a row of whole entries.
func FuzzConsumer(f *testing.F) {
	f.Add(uint64(1), []byte{})
	f.Add(uint64(2), []byte{0, 0, 0, 4, 0, 0, 0, 0, 0, 44, 255})
	f.Add(uint64(3), bytes.Repeat([]byte{0, 1, 0, 255}, 40))
	f.Add(uint64(4), []byte{64, 0, 2, 1, 64, 0, 3, 255})
	f.Fuzz(func(t *testing.T, seed uint64, edits []byte) {
		p, c := pair(t, heapRing(t, MinRing), ProducerConfig{VoidAfter: time.Microsecond})
		rnd := rand.New(rand.NewPCG(seed, 0))
		for range rnd.IntN(40) {
			p.Write(1, 0, make([]byte, 1+rnd.IntN(5000)))
			if rnd.IntN(3) == 0 {
				takeAll(t, c, rnd.IntN(20000))
			}
		}
		// An edit is where (3 bytes: of the data area, or of the header's changing part) and what.
		for ; len(edits) >= 4; edits = edits[4:] {
			at := int(edits[0]&0x3f)<<16 | int(edits[1])<<8 | int(edits[2])
			if edits[0]&0x40 != 0 {
				c.ring.mem[64+at%320] = edits[3]
			} else {
				c.ring.data[at%MinRing] = edits[3]
			}
		}
		for range MinRing / journal.EntryHeaderSize * 2 {
			run, ok, err := c.Next(10000)
			if err != nil || !ok {
				return
			}
			entries(t, run)
			if c.Release(run) != nil {
				return
			}
		}
		t.Fatal("the ring does not end")
	})
}
