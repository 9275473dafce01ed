package tap

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rephub/rephub/journal"
)

// heapRing is a ring in memory that the race detector watches.
func heapRing(t testing.TB, size uint64) *Ring {
	t.Helper()
	chunk := chunkFor(size)
	mem := make([]uint64, (dataOff(size/chunk)+size)/8)
	r := overlay(unsafe.Slice((*byte)(unsafe.Pointer(&mem[0])), len(mem)*8))
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	r.event = event
	r.format(chunk, size/chunk)
	return r
}

// pair makes both ends of a ring that records from seq 1 in epoch 1.
func pair(t testing.TB, r *Ring, cfg ProducerConfig) (*Producer, *Consumer) {
	t.Helper()
	p, err := NewProducer(r, cfg)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewConsumer(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := p.Unvoid(1, 1); err != nil {
		t.Fatal(err)
	}
	return p, c
}

type entry struct {
	journal.Header
	payload []byte
}

// entries decodes a run, with copies of the payloads.
func entries(t testing.TB, run Run) (out []entry) {
	t.Helper()
	for _, p := range run.Regions {
		for len(p) > 0 {
			h, err := journal.DecodeHeader(p)
			if err != nil {
				t.Fatal(err)
			}
			body := p[journal.EntryHeaderSize:][:h.PayloadLen]
			for _, b := range p[journal.EntryHeaderSize+int(h.PayloadLen) : h.Size()] {
				if b != 0 {
					t.Fatalf("seq %d: padding is not zero", h.Seq)
				}
			}
			out = append(out, entry{h, bytes.Clone(body)})
			p = p[h.Size():]
		}
	}
	if len(out) != run.Count || run.Count > 0 && (out[0].Seq != run.First || out[len(out)-1].Seq != run.Last) {
		t.Fatalf("run says %d entries %d…%d, holds %d", run.Count, run.First, run.Last, len(out))
	}
	return out
}

// takeAll drains what is there now.
func takeAll(t testing.TB, c *Consumer, max int) (out []entry) {
	t.Helper()
	for {
		run, ok, err := c.Next(max)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return out
		}
		out = append(out, entries(t, run)...)
		if err := c.Release(run); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWrapEverywhere lets entries of every length meet the end of the ring at every place.
func TestWrapEverywhere(t *testing.T) {
	p, c := pair(t, heapRing(t, MinRing), ProducerConfig{})
	rnd := rand.New(rand.NewPCG(1, 2))
	var want []entry
	var seq journal.Seq
	for round := range 4000 {
		n := rnd.IntN(p.piece + 1)
		if round%3 == 0 {
			n = rnd.IntN(40)
		}
		e := entry{Header: journal.Header{Volume: 7, Off: rnd.Int64N(1 << 40)}}
		seq++
		e.Seq = seq
		if n == 0 {
			e.Op, e.Len = journal.OpZero, 1+rnd.Uint32N(1<<31)
			p.Clear(e.Op, e.Volume, e.Off, int64(e.Len))
		} else {
			e.Op, e.Len = journal.OpWrite, uint32(n)
			e.payload = make([]byte, n)
			for i := range e.payload {
				e.payload[i] = byte(rnd.Uint32()) | 1
			}
			p.Write(e.Volume, e.Off, e.payload)
		}
		want = append(want, e)
		if rnd.IntN(2) == 0 || p.ring.State().Used > MinRing/2 {
			for i, g := range takeAll(t, c, 1+rnd.IntN(MinRing)) {
				w := want[i]
				if g.Seq != w.Seq || g.Op != w.Op || g.Off != w.Off || g.Len != w.Len || g.Volume != w.Volume || !bytes.Equal(g.payload, w.payload) {
					t.Fatalf("round %d: got %+v, want %+v", round, g.Header, w.Header)
				}
			}
			want = want[:0]
		}
	}
	if s := c.State(); s.Void || s.Last != seq {
		t.Fatalf("state %+v after seq %d", s, seq)
	}
}

// TestLongRequests: what does not fit one entry becomes several that cover it exactly.
func TestLongRequests(t *testing.T) {
	p, c := pair(t, heapRing(t, 8<<20), ProducerConfig{})
	data := make([]byte, 5<<20+777)
	for i := range data {
		data[i] = byte(i * 7)
	}
	p.Write(1, 1234, data)
	got, off := []byte{}, int64(1234)
	for _, e := range takeAll(t, c, 1<<20) {
		if e.Off != off || e.Len > maxPiece || len(got) > 0 && off%4096 != 0 {
			t.Fatalf("piece of %d at %d, want at %d", e.Len, e.Off, off)
		}
		got, off = append(got, e.payload...), off+int64(e.Len)
	}
	if !bytes.Equal(got, data) {
		t.Fatal("pieces differ from the write")
	}
	p.Clear(journal.OpTrim, 1, 512, 10<<30)
	off = 512
	for _, e := range takeAll(t, c, 1<<20) {
		if e.Off != off || e.Op != journal.OpTrim {
			t.Fatalf("got %+v, want at %d", e.Header, off)
		}
		off += int64(e.Len)
	}
	if off != 512+10<<30 {
		t.Fatalf("trims end at %d", off)
	}
	p.Clear(journal.OpZero, 1, 0, 1<<32-1)
	if z := takeAll(t, c, 1); len(z) != 1 || z[0].Len != 1<<32-1 {
		t.Fatalf("4 GiB of zeroes became %d entries", len(z))
	}
}

// TestCutIsExact: when nobody consumes, everything answered up to the cut is there, in order, and nothing after it.
func TestCutIsExact(t *testing.T) {
	for _, producers := range []int{1, 4} {
		t.Run(fmt.Sprint(producers), func(t *testing.T) {
			p, c := pair(t, heapRing(t, MinRing), ProducerConfig{VoidAfter: time.Millisecond})
			const each = 700
			var wg sync.WaitGroup
			for g := range producers {
				wg.Go(func() {
					for i := range each {
						p.Write(journal.VolumeID(g+1), int64(i)*512, bytes.Repeat([]byte{byte(i)}, 512))
					}
				})
			}
			wg.Wait()
			s := c.State()
			if !s.Void || s.Reason != VoidFull || s.Cut != s.Last || s.Cut == 0 {
				t.Fatalf("state %+v", s)
			}
			next := make([]int64, producers+1)
			all := takeAll(t, c, 4096)
			for i, e := range all {
				if e.Seq != journal.Seq(i+1) || e.Off != next[e.Volume]*512 || e.payload[0] != byte(next[e.Volume]) {
					t.Fatalf("entry %d is %+v, want its volume's write %d", i, e.Header, next[e.Volume])
				}
				next[e.Volume]++
			}
			if journal.Seq(len(all)) != s.Cut || uint64(len(all))+s.VoidWrites != uint64(each*producers) {
				t.Fatalf("%d entries, cut %d, %d void writes, %d writes", len(all), s.Cut, s.VoidWrites, each*producers)
			}
			if free := s.Size - s.Used; free > 512+48 {
				t.Fatalf("void with %d bytes free", free)
			}
		})
	}
}

// TestUnvoidRefusals holds law 6: no epoch and no seq twice, and nothing forgotten in the ring.
func TestUnvoidRefusals(t *testing.T) {
	p, c := pair(t, heapRing(t, MinRing), ProducerConfig{})
	refuse := func(want error, e journal.Epoch, first journal.Seq) {
		t.Helper()
		if err := p.Unvoid(e, first); !errors.Is(err, want) {
			t.Fatalf("Unvoid(%d, %d) = %v, want %v", e, first, err, want)
		}
	}
	p.Write(1, 0, []byte("a"))
	refuse(ErrNotVoid, 2, 2)
	if cut := p.Void(); cut != 1 {
		t.Fatalf("cut %d", cut)
	}
	p.Write(1, 0, []byte("lost"))
	if cut := p.Void(); cut != 1 {
		t.Fatalf("cut moved to %d", cut)
	}
	refuse(ErrStale, 1, 2)
	refuse(ErrStale, 2, 1)
	refuse(ErrBusy, 2, 2)
	run, ok, err := c.Next(100)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	refuse(ErrBusy, 2, 2) // taken is not released
	if err := c.Release(run); err != nil {
		t.Fatal(err)
	}
	if err := p.Unvoid(2, 10); err != nil {
		t.Fatal(err)
	}
	p.Write(1, 0, []byte("b"))
	if got := takeAll(t, c, 1); len(got) != 1 || got[0].Seq != 10 || string(got[0].payload) != "b" {
		t.Fatalf("got %+v", got)
	}
	if s := c.State(); s.Epoch != 2 || s.Last != 10 || s.Consumed != 10 || s.VoidWrites != 1 || s.Voids != 2 {
		t.Fatalf("state %+v", s)
	}
}

// TestDependentWrites: a write that is issued after others were answered, by whomever, comes after them.
func TestDependentWrites(t *testing.T) {
	p, c := pair(t, heapRing(t, MinRing), ProducerConfig{VoidAfter: time.Minute})
	const writers, each = 4, 3000
	var answered [writers]atomic.Uint64
	ctx, done := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for g := range writers {
		wg.Go(func() {
			body := make([]byte, 8*writers, 8*writers+3000)
			for i := uint64(1); i <= each; i++ {
				for o := range writers {
					binary.LittleEndian.PutUint64(body[8*o:], answered[o].Load())
				}
				p.Write(journal.VolumeID(g+1), int64(i), body[:8*writers+int(i*37%3000)])
				answered[g].Store(i)
			}
		})
	}
	go func() { wg.Wait(); done() }()
	var seen [writers]uint64
	var last int64
	check := func(es []entry) {
		for _, e := range es {
			for o := range writers {
				if need := binary.LittleEndian.Uint64(e.payload[8*o:]); seen[o] < need {
					t.Errorf("seq %d depends on write %d of %d, which is not before it", e.Seq, need, o)
				}
			}
			if e.Off != int64(seen[e.Volume-1]+1) || e.Time < last {
				t.Errorf("seq %d: writer %d's %d after %d; time %d after %d", e.Seq, e.Volume, e.Off, seen[e.Volume-1], e.Time, last)
			}
			seen[e.Volume-1], last = uint64(e.Off), e.Time
		}
	}
	err := c.Drain(ctx, DrainConfig{MaxRun: 5000, Tick: time.Microsecond}, func(r Run) error {
		check(entries(t, r))
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	check(takeAll(t, c, 5000))
	for g := range writers {
		if seen[g] != each {
			t.Errorf("writer %d: %d of %d writes", g, seen[g], each)
		}
	}
}

// TestModel lets several writers, a consumer that stalls, and a controller that goes void and back run against one another.
func TestModel(t *testing.T) {
	for name, mk := range map[string]func() *Ring{
		"heap":  func() *Ring { return heapRing(t, MinRing) },
		"memfd": func() *Ring { return newRing(t, 1<<20) },
	} {
		t.Run(name, func(t *testing.T) { model(t, mk()) })
	}
}

func must[T any](t testing.TB, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func model(t *testing.T, r *Ring) {
	p, c := pair(t, r, ProducerConfig{VoidAfter: 2 * time.Millisecond})
	const writers, enough = 3, 6000
	ctx, done := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var issued [writers]uint64
	for g := range writers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 9))
			body := bytes.Repeat([]byte{byte(g)}, 4000)
			for ctx.Err() == nil {
				p.Write(journal.VolumeID(g+1), int64(issued[g]), body[:1+rnd.IntN(len(body))])
				issued[g]++
			}
		})
	}
	var (
		rnd    = rand.New(rand.NewPCG(5, 5))
		got    uint64
		epoch  journal.Epoch
		seq    journal.Seq
		inEp   [writers + 1]int64 // last write of the writer in this epoch, -1 none
		grants = journal.Epoch(1)
	)
	take := func(run Run) {
		if run.Epoch != epoch {
			if run.Epoch < epoch {
				t.Fatalf("epoch %d after %d", run.Epoch, epoch)
			}
			epoch, inEp = run.Epoch, [writers + 1]int64{-1, -1, -1, -1}
		}
		for _, e := range entries(t, run) {
			if e.Seq <= seq || inEp[e.Volume] >= 0 && e.Off != inEp[e.Volume]+1 {
				t.Fatalf("epoch %d seq %d (after %d): write %d of writer %d after %d", epoch, e.Seq, seq, e.Off, e.Volume, inEp[e.Volume])
			}
			if int(e.payload[0]) != int(e.Volume)-1 || e.payload[len(e.payload)-1] != e.payload[0] {
				t.Fatalf("seq %d: payload of another writer", e.Seq)
			}
			seq, inEp[e.Volume] = e.Seq, e.Off
			got++
		}
	}
	for got < enough {
		for range rnd.IntN(60) {
			run, ok, err := c.Next(rnd.IntN(100 << 10))
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			take(run)
			if err := c.Release(run); err != nil {
				t.Fatal(err)
			}
		}
		if rnd.IntN(500) == 0 {
			p.Void()
		}
		if err := p.Trim(); err != nil {
			t.Fatal(err)
		}
		if s := c.State(); s.Void && s.Cut != s.Last {
			t.Fatalf("void with cut %d and last %d", s.Cut, s.Last)
		} else if s.Void && c.Passed(c.Mark()) {
			grants++
			if err := p.Unvoid(grants, s.Last+100); err != nil {
				t.Fatal(err)
			}
		}
	}
	done()
	wg.Wait()
	for {
		run, ok, err := c.Next(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		take(run)
		if err := c.Release(run); err != nil {
			t.Fatal(err)
		}
	}
	s := c.State()
	if all := issued[0] + issued[1] + issued[2]; got+s.VoidWrites != all || s.Used != 0 {
		t.Errorf("%d consumed + %d void of %d; state %+v", got, s.VoidWrites, all, s)
	}
	if grants < 3 || s.VoidWrites == 0 {
		t.Errorf("%d epochs, %d void writes: the test tried nothing", grants, s.VoidWrites)
	}
	t.Logf("%d recorded, %d void, %d epochs", got, s.VoidWrites, grants)
}

// TestNoLostWakeUp hands single writes over to a consumer that sleeps between them.
func TestNoLostWakeUp(t *testing.T) {
	p, c := pair(t, newRing(t, MinRing), ProducerConfig{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const writes = 20000
	got := make(chan struct{})
	go func() {
		for range writes {
			p.Write(1, 0, []byte{1})
			<-got
		}
	}()
	for n := 0; n < writes; {
		if err := c.Wait(ctx); err != nil {
			t.Fatalf("after %d writes: %v", n, err)
		}
		for range takeAll(t, c, 100) {
			n++
			got <- struct{}{}
		}
	}
}

func newRing(t testing.TB, size int64) *Ring {
	t.Helper()
	r, err := NewRing(size)
	return must(t, r, err)
}

// Gathering aims at Enough bytes, and keeps to its limits whatever comes.
func TestPause(t *testing.T) {
	cfg := DrainConfig{Tick: 5 * time.Millisecond, Enough: 128 << 10}
	for _, c := range []struct {
		name string
		each int           // bytes in a millisecond
		want time.Duration // in the end
	}{
		{"a trickle", 1 << 10, 5 * time.Millisecond},
		{"as much as is enough in the longest time", 128 << 10 / 5, 5 * time.Millisecond},
		{"twice that", 128 << 10 * 2 / 5, 2500 * time.Microsecond},
		{"a flood", 1 << 20, 500 * time.Microsecond},
	} {
		p := cfg.Tick
		for range 20 {
			n := max(1, int(int64(c.each)*int64(p)/int64(time.Millisecond)))
			p = cfg.pause(p, n)
		}
		if d := p - c.want; d > 50*time.Microsecond || d < -50*time.Microsecond {
			t.Errorf("%s: gathers for %s, not %s", c.name, p, c.want)
		}
	}
}
