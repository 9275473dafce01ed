package relay

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rephub/rephub/journal"
)

func TestAckRoundTrip(t *testing.T) {
	for _, want := range []Ack{{}, {Serial: 1, Seq: 2, Epoch: 3, Point: 4, Fence: 5}, {Serial: 1 << 63, Open: true, Fence: 1<<64 - 1}} {
		p := appendFrame(nil, typeAck, 1, want.encode())
		f, err := (&decoder{r: bytes.NewReader(p)}).next()
		must(t, err)
		if got, err := decodeAck(&f); err != nil || got != want {
			t.Errorf("%+v became %+v, %v", want, got, err)
		}
	}
}

// The sender knows what the receiver may promise after a power loss: attach,
// fence, cut, the next epoch, each as soon as its batch is confirmed.
func TestAcksCarryTheTimeline(t *testing.T) {
	spool, far := create(t, memFS(t), 1, options(true)), create(t, memFS(t), 1, options(false))
	h := startHub(t, ReceiverConfig{Open: into(far)}, Config{})
	wake := make(chan struct{}, 1)
	w := newWriter(t, spool, 1, wake)
	a := startAgent(t, spool, wake, h.addr(), Config{}, func(s *Sender) {
		d, tl := s.Durable(), far.DurableTimeline()
		if p, _ := tl.Newest(); d.Epoch > tl.Epoch || d.Point > p || d.Fence > tl.LastFence.Seq {
			t.Errorf("%+v is confirmed, durable is %+v", d, tl)
		}
	})
	confirmed := func(what string) Ack {
		t.Helper()
		poke(wake)
		must(t, a.s.Wait(t.Context(), spool.Serial()))
		d, tl := a.s.Status().Durable, spool.Timeline()
		p, _ := tl.Newest()
		if want := (Ack{Serial: spool.Serial(), Seq: spool.Appended(), Epoch: tl.Epoch, Open: tl.Open, Point: p, Fence: tl.LastFence.Seq}); d != want {
			t.Errorf("%s: %+v is confirmed, it is %+v", what, d, want)
		}
		return d
	}
	fence := func() { must(t, spool.AppendControl(w.epoch, journal.Fence{Seq: spool.Appended()})) }
	first := confirmed("attach")
	if first.Open || first.Point != 0 {
		t.Errorf("a point is offered before the sync: %+v", first)
	}
	w.writes(3, 512)
	fence()
	if d := confirmed("fence in a sync"); d.Open || d.Point != 0 || d.Fence == 0 {
		t.Errorf("a fence during a sync: %+v", d)
	}
	must(t, spool.AppendControl(w.epoch, journal.SyncEnd{Volume: 1}))
	fence()
	w.writes(3, 512)
	if d := confirmed("fence"); !d.Open || d.Point == 0 || d.Point == d.Seq {
		t.Errorf("a fence after the sync: %+v", d)
	}
	fence()
	open := confirmed("another fence")
	must(t, spool.AppendControl(w.epoch, journal.Cut{Seq: spool.Appended()}))
	if d := confirmed("cut"); d.Open || d.Point != open.Point || d.Epoch != open.Epoch {
		t.Errorf("after a cut: %+v", d)
	}
	w.attach()
	if d := confirmed("attach"); d.Open || d.Epoch != open.Epoch+1 || d.Point != open.Point {
		t.Errorf("after the next attach: %+v", d)
	}
	// A new sender knows it all from the answer.
	a.stop()
	last := a.s.Durable()
	a = startAgent(t, spool, wake, h.addr(), Config{}, nil)
	must(t, a.s.Wait(t.Context(), last.Serial))
	if d := a.s.Durable(); d != last {
		t.Errorf("the next sender knows of %+v, it was %+v", d, last)
	}
}

// counted counts how often the timeline is copied.
type counted struct {
	*journal.Log
	syncs, copies atomic.Int64
}

func (c *counted) Sync() (journal.Seq, error) {
	c.syncs.Add(1)
	return c.Log.Sync()
}

func (c *counted) DurableTimeline() journal.Timeline {
	c.copies.Add(1)
	return c.Log.DurableTimeline()
}

// The timeline is copied once per sync, and not per batch.
func TestTimelineIsCopiedPerSync(t *testing.T) {
	spool := create(t, memFS(t), 1, options(true))
	far := &counted{Log: create(t, memFS(t), 1, options(false))}
	h := startHub(t, ReceiverConfig{Open: func(context.Context, string, Hello) (Journal, error) { return far, nil }}, Config{})
	wake := make(chan struct{}, 1)
	w := newWriter(t, spool, 1, wake)
	for range 200 {
		w.writes(2, 512)
	}
	a := startAgent(t, spool, wake, h.addr(), Config{}, nil)
	must(t, a.s.Wait(t.Context(), spool.Serial()))
	if len(a.runs) > 0 {
		t.Fatalf("the stream ended: %v", <-a.runs)
	}
	if c, s := far.copies.Load(), far.syncs.Load(); c > s+1 {
		t.Errorf("%d copies, %d syncs", c, s)
	}
}

func TestWait(t *testing.T) {
	spool, far := create(t, memFS(t), 1, options(true)), create(t, memFS(t), 1, options(false))
	h := startHub(t, ReceiverConfig{Open: into(far)}, Config{})
	wake := make(chan struct{}, 1)
	w := newWriter(t, spool, 1, wake)
	s, err := NewSender(SenderConfig{Log: spool, Wake: wake})
	must(t, err)
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := s.Wait(short, 1); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "batch 1 ") {
		t.Errorf("nothing was sent: %v", err)
	}
	must(t, s.Wait(short, 0))
	p := newProxy(t, h.addr())
	a := startAgent(t, spool, wake, p.addr(), Config{}, nil)
	for range 20 {
		p.cutAt(2000)
		w.writes(5, 512)
		w.step()
		done := make(chan error, 3)
		for i := range cap(done) {
			go func() { done <- a.s.Wait(t.Context(), spool.Serial()-journal.Serial(i%2)) }()
		}
		for range cap(done) {
			must(t, <-done)
		}
		if far.DurableSerial() < spool.Serial() {
			t.Fatalf("batch %d is confirmed, %d is durable", spool.Serial(), far.DurableSerial())
		}
	}
	if len(a.runs) == 0 {
		t.Error("no connection broke")
	}
}
