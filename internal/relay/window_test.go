package relay

import (
	"context"
	"testing"
	"time"

	"github.com/rephub/rephub/journal"
)

// A batch larger than the window, and than a frame, arrives whole, and the
// window is afterwards what it was.
func TestBatchLargerThanTheWindow(t *testing.T) {
	n := secure(t)
	opt := journal.Options{Number: true}
	spool, far := create(t, memFS(t), 1, opt), create(t, memFS(t), 1, journal.Options{})
	h := n.hub(t, ReceiverConfig{Open: into(far), Window: 4 << 10}, Config{})
	wake := make(chan struct{}, 1)
	w := newWriter(t, spool, 1, wake)
	a := n.agent(t, spool, wake, h.addr(), Config{}, nil)
	for range 3 {
		w.writes(1, 512)
		w.writes(40, 64<<10)
		w.writes(7, 100)
		await(t, "all is durable", func() bool { return a.s.Durable().Serial == spool.Serial() })
	}
	same(t, spool, far)
}

// What the receiver has confirmed goes from the spool; what it has not, stays.
func TestSpoolShrinks(t *testing.T) {
	spool, far := create(t, memFS(t), 1, options(true)), create(t, memFS(t), 1, options(false))
	h := startHub(t, ReceiverConfig{Open: into(far)}, Config{})
	wake := make(chan struct{}, 1)
	w := newWriter(t, spool, 1, wake)
	for range 100 {
		w.writes(10, 512)
	}
	full := spool.Bytes()
	a := startAgent(t, spool, wake, h.addr(), Config{}, nil)
	await(t, "the spool shrinks", func() bool {
		_, err := spool.Sync() // a segment that is not synced stays
		must(t, err)
		w.writes(1, 512)
		return spool.Bytes() < full/4
	})
	await(t, "all is durable", func() bool { return a.s.Durable().Serial == spool.Serial() })
	same(t, spool, far)
	if far.FirstSeq() != 1 {
		t.Error("the hub's journal does not begin at the beginning")
	}
}

// The limit holds data back, not pings and calls, and it can be lifted.
func TestLimit(t *testing.T) {
	spool, far := create(t, memFS(t), 1, journal.Options{Number: true}), create(t, memFS(t), 1, journal.Options{})
	h := startHub(t, ReceiverConfig{Open: into(far)}, Config{Ping: 10 * time.Millisecond, Silence: 2 * time.Second})
	wake := make(chan struct{}, 1)
	w := newWriter(t, spool, 1, wake)
	for range 20 {
		w.writes(2, 64<<10)
	}
	c := dial(t, h.addr(), Config{Ping: 10 * time.Millisecond, Silence: 2 * time.Second, Limit: 1})
	s, err := NewSender(SenderConfig{Log: spool, Wake: wake})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, c) }()
	defer func() { cancel(); <-ended }()
	await(t, "something is sent", func() bool { return s.Durable().Serial > 0 })
	for range 200 {
		if err := c.Call(ctx, "any", nil, nil); err == nil {
			t.Fatal("there is no handler")
		}
	}
	if s.Status().Sent == spool.Serial() {
		t.Fatal("2 MiB went through at a byte per second")
	}
	c.SetLimit(0)
	await(t, "all is durable", func() bool { return s.Durable().Serial == spool.Serial() })
	same(t, spool, far)
}

// A group with much to send does not keep one with little waiting.
func TestTurns(t *testing.T) {
	far := map[journal.GroupID]*journal.Log{groupID(1): create(t, memFS(t), 1, journal.Options{}), groupID(2): create(t, memFS(t), 2, journal.Options{})}
	h := startHub(t, ReceiverConfig{Open: func(_ context.Context, _ string, h Hello) (Journal, error) { return far[h.Group], nil }}, Config{})
	c := dial(t, h.addr(), Config{Limit: 2 << 20})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	var senders [2]*Sender
	var writers [2]*writer
	for i := range senders {
		spool, wake := create(t, memFS(t), byte(i+1), journal.Options{Number: true}), make(chan struct{}, 1)
		writers[i] = newWriter(t, spool, 1, wake)
		if i == 0 {
			for range 10 {
				writers[0].writes(20, 64<<10) // 13 MiB: 3 s or more
			}
		}
		var err error
		senders[i], err = NewSender(SenderConfig{Log: spool, Wake: wake})
		must(t, err)
		go func() { ended <- senders[i].Run(ctx, c) }()
		await(t, "the large group is first", func() bool { return senders[i].Status().Sent > 0 })
	}
	defer func() { cancel(); <-ended; <-ended }()
	for range 3 {
		writers[1].writes(1, 512)
		await(t, "the small group gets through", func() bool { return senders[1].Durable().Serial == writers[1].l.Serial() })
	}
	if senders[0].Durable().Serial == writers[0].l.Serial() {
		t.Error("the small group came after the large one")
	}
	c.SetLimit(0)
	await(t, "all is durable", func() bool { return senders[0].Durable().Serial == writers[0].l.Serial() })
}

// The segment that was read to its end may go before the next batch is asked for.
func TestSegmentGoesUnderTheShipper(t *testing.T) {
	fs, wake := memFS(t), make(chan struct{}, 1)
	spool := create(t, fs, 1, options(true))
	w := newWriter(t, spool, 1, wake)
	for range 100 {
		w.writes(10, 512)
		_, err := spool.Sync() // the next segment says so
		must(t, err)
	}
	must(t, spool.Close())
	spool = reopen(t, fs, options(true)) // all but the last segments have their indexes now
	s, err := NewSender(SenderConfig{Log: spool, Wake: wake})
	must(t, err)
	sh := shipper{s: s}
	sh.f, err = spool.Follow(0)
	must(t, err)
	defer sh.close()
	gone := 0
	for sh.at < spool.Serial() {
		b, ok, err := sh.next()
		if err != nil || !ok || b.Serial != sh.at+1 {
			t.Fatalf("after batch %d came %d, %v, %v", sh.at, b.Serial, ok, err)
		}
		sh.at = b.Serial
		before := spool.FirstSeq()
		must(t, spool.DropShipped(sh.at))
		if spool.FirstSeq() != before {
			gone++
		}
	}
	if gone < 5 {
		t.Errorf("only %d segments went", gone)
	}
}
