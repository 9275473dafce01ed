package relay

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vfs/errorfs"
	"github.com/rephub/rephub/journal"
)

// Two groups share a connection. One's disk at the hub is full, or hangs: it
// stands still and its sender is told, the other goes on; then it goes on too.
func TestOneDiskStalls(t *testing.T) {
	for name, full := range map[string]bool{"full": true, "hangs": false} {
		t.Run(name, func(t *testing.T) { oneDiskStalls(t, full) })
	}
}

func oneDiskStalls(t *testing.T, full bool) {
	var bad atomic.Bool
	release := make(chan struct{})
	fs := errorfs.New(memFS(t), func(c errorfs.Call) error {
		if !bad.Load() || c.Op&(errorfs.Write|errorfs.Allocate) == 0 {
			return nil
		}
		if full {
			return syscall.ENOSPC
		}
		<-release
		return nil
	})
	far := map[journal.GroupID]*journal.Log{groupID(1): create(t, fs, 1, options(false)), groupID(2): create(t, memFS(t), 2, options(false))}
	h := startHub(t, ReceiverConfig{
		Open:   func(_ context.Context, _ string, h Hello) (Journal, error) { return far[h.Group], nil },
		Window: 64 << 10, RetryEvery: 5 * time.Millisecond, StallAfter: 20 * time.Millisecond,
	}, Config{})
	c := dial(t, h.addr(), Config{})
	var writers [2]*writer
	var senders [2]*Sender
	var mu sync.Mutex
	reasons := map[string]bool{}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	for i := range senders {
		spool, wake := create(t, memFS(t), byte(i+1), options(true)), make(chan struct{}, 1)
		writers[i] = newWriter(t, spool, uint64(i), wake)
		var err error
		senders[i], err = NewSender(SenderConfig{Log: spool, Wake: wake, Changed: func() {
			if i != 0 {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			reasons[senders[0].Status().Stalled] = true
		}})
		must(t, err)
		go func() { ended <- senders[i].Run(ctx, c) }()
	}
	defer func() { cancel(); <-ended; <-ended }()
	bad.Store(true)
	for range 100 { // far more than a window
		writers[0].writes(10, 512)
		writers[1].writes(10, 512)
	}
	await(t, "the healthy group goes on", func() bool { return senders[1].Durable().Serial == writers[1].l.Serial() })
	await(t, "the sender hears why", func() bool { return senders[0].Status().Stalled != "" })
	why := senders[0].Status().Stalled
	if full && !strings.Contains(why, syscall.ENOSPC.Error()) || !full && !strings.Contains(why, "not answered") {
		t.Errorf("it stands still because %q", why)
	}
	if senders[0].Durable().Serial == writers[0].l.Serial() {
		t.Fatal("a full disk has taken everything")
	}
	writers[1].writes(10, 512)
	await(t, "the healthy group goes on", func() bool { return senders[1].Durable().Serial == writers[1].l.Serial() })
	mu.Lock()
	delete(reasons, "")
	if len(reasons) > 2 { // a busy machine adds that the disk hangs
		t.Errorf("it was tried again many times, and the sender was told %v", reasons)
	}
	mu.Unlock()
	bad.Store(false)
	close(release)
	await(t, "the group goes on", func() bool {
		return senders[0].Durable().Serial == writers[0].l.Serial() && senders[0].Status().Stalled == ""
	})
	same(t, writers[0].l, far[groupID(1)])
	same(t, writers[1].l, far[groupID(2)])
	must(t, c.Err())
}

// After a sync that failed nothing is confirmed, and the sender hears why. The
// journal's owner mends it, or opens it again without what the disk has lost;
// then the stream goes on where the journal is.
func TestSyncFails(t *testing.T) {
	for name, lost := range map[string]bool{"mended": false, "lost": true} {
		t.Run(name, func(t *testing.T) { syncFails(t, lost) })
	}
}

func syncFails(t *testing.T, lost bool) {
	var bad atomic.Bool
	fs := memFS(t)
	fs.OnSync(func(string) error {
		if bad.Load() {
			return syscall.EIO
		}
		return nil
	}, lost)
	spool := create(t, memFS(t), 1, options(true))
	far := &site{log: create(t, fs, 1, options(false))}
	h := startHub(t, ReceiverConfig{Open: far.open, RetryEvery: 2 * time.Millisecond}, Config{})
	wake := make(chan struct{}, 1)
	w := newWriter(t, spool, 1, wake)
	a := startAgent(t, spool, wake, h.addr(), Config{}, func(s *Sender) {
		d, l := s.Durable(), far.get()
		if tl := l.DurableTimeline(); d.Serial > l.DurableSerial() || d.Seq > l.Durable() || d.Epoch > tl.Epoch || d.Fence > tl.LastFence.Seq {
			t.Errorf("%+v is confirmed, durable are batch %d, seq %d, %+v", d, l.DurableSerial(), l.Durable(), tl)
		}
	})
	await(t, "the beginning is durable", func() bool { return a.s.Durable().Serial == spool.Serial() })
	for range 4 {
		bad.Store(true)
		w.attach()
		for range 20 {
			w.step()
		}
		await(t, "the sender hears why", func() bool { return a.s.Status().Stalled != "" })
		if a.s.Durable().Serial == spool.Serial() {
			t.Fatal("what was not synced is confirmed")
		}
		bad.Store(false)
		if lost {
			l := far.get()
			far.mu.Lock() // nobody opens it meanwhile
			_ = l.Close() // it has failed
			far.log = reopen(t, fs, options(false))
			far.mu.Unlock()
		} else {
			await(t, "the journal recovers", func() bool { return far.get().Recover() == nil })
		}
		await(t, "all is durable", func() bool { return a.s.Durable().Serial == spool.Serial() })
	}
	same(t, spool, far.get())
}

// A newer connection takes the group over from one that nobody knows to be dead.
func TestTakeOver(t *testing.T) { overAll(t, takeOver) }

func takeOver(t *testing.T, n network) {
	spool, far := create(t, memFS(t), 1, options(true)), create(t, memFS(t), 1, options(false))
	h := n.hub(t, ReceiverConfig{Open: into(far)}, Config{})
	wake := make(chan struct{}, 1)
	w := newWriter(t, spool, 1, wake)
	run := func(ctx context.Context) (*Sender, chan error) {
		s, err := NewSender(SenderConfig{Log: spool, Wake: wake})
		must(t, err)
		ended := make(chan error, 1)
		c := n.dial(t, h.addr(), Config{})
		go func() { ended <- s.Run(ctx, c) }()
		return s, ended
	}
	ctx, cancel := context.WithCancel(context.Background())
	s1, ended1 := run(ctx)
	await(t, "the first one ships", func() bool { return s1.Durable().Serial == spool.Serial() })
	s2, ended2 := run(ctx)
	if err := <-ended1; !errors.Is(err, ErrInterrupted) {
		t.Errorf("the first one ended with %v", err)
	}
	w.step()
	await(t, "the second one ships", func() bool { return s2.Durable().Serial == spool.Serial() })
	cancel()
	if err := <-ended2; !errors.Is(err, context.Canceled) {
		t.Errorf("the second one ended with %v", err)
	}
	same(t, spool, far)
}
