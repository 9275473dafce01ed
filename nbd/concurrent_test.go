package nbd

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// gate is a backend call that tests hold up.
type gate struct {
	entered chan struct{}
	open    chan struct{}
}

func newGate() *gate { return &gate{entered: make(chan struct{}, 64), open: make(chan struct{})} }

func (g *gate) pass(ctx context.Context) error {
	g.entered <- struct{}{}
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func concurrent(size int) ExportInfo {
	info := everything(size)
	info.Concurrent = true
	return info
}

// TestSlowCallBlocksNobody: while a read hangs in the backend, other requests of the same connection are served.
func TestSlowCallBlocksNobody(t *testing.T) {
	g := newGate()
	d := newDisk(1 << 20)
	d.onRead = func(ctx context.Context, off int64, _ int) error {
		if off == 0 {
			return g.pass(ctx)
		}
		return nil
	}
	c := dial(t, one(t, d, concurrent(1<<20)).uri(""), DialOptions{})
	slow := make(chan error, 1)
	go func() { slow <- c.ReadAt(within(t), make([]byte, 512), 0) }()
	<-g.entered
	for i := range 200 {
		if err := c.WriteAt(within(t), pattern(5000, byte(i)), 4096, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-slow:
		t.Fatalf("the slow read ended by itself: %v", err)
	default:
	}
	close(g.open)
	if err := <-slow; err != nil {
		t.Fatal(err)
	}
}

// TestRepliesBeforeASlowCallAreSent: requests that arrive in one segment with a slow one behind them are answered.
func TestRepliesBeforeASlowCallAreSent(t *testing.T) {
	g := newGate()
	d := newDisk(1 << 20)
	d.onRead = func(ctx context.Context, off int64, _ int) error { return g.pass(ctx) }
	w := plug(t, one(t, d, concurrent(1<<20)), fixedClient).enter("")
	b := requestBytes(cmdWrite, 0, 1, 0, 3, 1, 2, 3)
	b = append(b, requestBytes(cmdRead, 0, 2, 0, 4)...)
	b = append(b, requestBytes(cmdWrite, 0, 3, 2, 2, 9, 9)...)
	w.send(b)
	w.wantReply(1, 0)
	w.wantReply(3, 0)
	close(g.open)
	w.wantReply(2, 0)
	wantBytes(t, w.recv(4), []byte{1, 2, 9, 9})
}

// TestWorkersAreBounded: more stuck calls than workers wait their turn, and all are served in the end.
func TestWorkersAreBounded(t *testing.T) {
	const requests = 3 * maxWorkers
	g := newGate()
	var running, most atomic.Int32
	d := newDisk(1 << 20)
	d.onWrite = func(ctx context.Context, _ int64, _ int, _ CommandFlags) error {
		n := running.Add(1)
		defer running.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		return g.pass(ctx)
	}
	c := dial(t, one(t, d, concurrent(1<<20)).uri(""), DialOptions{})
	var wg sync.WaitGroup
	for i := range requests {
		wg.Go(func() {
			if err := c.WriteAt(within(t), pattern(9000, byte(i)), int64(i)*9000, 0); err != nil {
				t.Error(err)
			}
		})
	}
	for range maxWorkers {
		<-g.entered
	}
	close(g.open)
	wg.Wait()
	if n := most.Load(); n < maxWorkers || n > maxWorkers+1 {
		t.Errorf("%d calls at once instead of %d", n, maxWorkers)
	}
	for i := range requests {
		wantBytes(t, d.data[i*9000:(i+1)*9000], pattern(9000, byte(i)))
	}
}

// TestConcurrentHistory writes and reads areas of a disk whose calls take random times, and compares every byte.
func TestConcurrentHistory(t *testing.T) {
	const area, writers, rounds = 64 << 10, 12, 60
	d := newDisk(area * writers)
	release := time.NewTicker(700 * time.Microsecond)
	defer release.Stop()
	d.onWrite = func(_ context.Context, off int64, _ int, _ CommandFlags) error {
		if off%3 == 0 { // a third of the calls takes longer than the watchdog's patience
			<-release.C
			<-release.C
		}
		return nil
	}
	c := dial(t, one(t, d, concurrent(area*writers)).uri(""), DialOptions{})
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 7))
			want := make([]byte, area)
			for round := range rounds {
				n := 1 + rng.IntN(20000)
				at := rng.IntN(area - n)
				p := pattern(n, byte(round))
				copy(want[at:], p)
				if err := c.WriteAt(within(t), p, int64(i*area+at), 0); err != nil {
					t.Error(err)
					return
				}
				got := make([]byte, n)
				if err := c.ReadAt(within(t), got, int64(i*area+at)); err != nil {
					t.Error(err)
					return
				}
				if string(got) != string(want[at:at+n]) {
					t.Errorf("writer %d reads something else after round %d", i, round)
					return
				}
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			if string(want) != string(d.data[i*area:(i+1)*area]) {
				t.Errorf("the disk differs from what writer %d wrote", i)
			}
		})
	}
	wg.Wait()
}

// TestSerialExportIsNeverCalledConcurrently: without Concurrent, one call at a time.
func TestSerialExportIsNeverCalledConcurrently(t *testing.T) {
	var running atomic.Int32
	d := newDisk(1 << 20)
	d.onWrite = func(context.Context, int64, int, CommandFlags) error {
		if running.Add(1) != 1 {
			t.Error("two calls at once")
		}
		defer running.Add(-1)
		<-time.After(3 * time.Millisecond) // longer than a tick of the watchdog
		return nil
	}
	c := dial(t, one(t, d, everything(1<<20)).uri(""), DialOptions{})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := c.WriteAt(within(t), []byte{1}, int64(i), 0); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestPeerGoneCancelsCalls: a concurrent connection that is lost frees the calls that hang for it.
func TestPeerGoneCancelsCalls(t *testing.T) {
	g := newGate()
	d := newDisk(4096)
	d.onRead = func(ctx context.Context, _ int64, _ int) error { return g.pass(ctx) }
	w := plug(t, one(t, d, concurrent(4096)), fixedClient).enter("")
	w.send(requestBytes(cmdRead, 0, 1, 0, 1))
	<-g.entered
	w.Close()
	eventually(t, "the backend is closed", func() bool { return d.closes() == 1 })
}

// TestPeerThatDoesNotRead holds up nobody else, and Close frees its connection.
func TestPeerThatDoesNotRead(t *testing.T) {
	for _, info := range []ExportInfo{everything(32 << 20), concurrent(32 << 20)} {
		d := newDisk(32 << 20)
		r := one(t, d, info)
		deaf := plug(t, r, fixedClient).enter("")
		for i := range 40 {
			deaf.send(requestBytes(cmdRead, 0, uint64(i), 0, 1<<20))
		}
		deaf.recv(1) // it is being served
		c := dial(t, r.uri(""), DialOptions{})
		if err := c.WriteAt(within(t), pattern(1<<20, 1), 0, 0); err != nil {
			t.Fatal(err)
		}
		r.Close()
		if n := d.closes(); n != 2 {
			t.Errorf("%d of 2 backends closed", n)
		}
		if err := c.WriteAt(within(t), []byte{1}, 0, 0); !errors.As(err, new(*ConnError)) {
			t.Errorf("write after the server has gone: %v", err)
		}
	}
}

// TestIdleConnectionGivesMemoryBack, and goes on.
func TestIdleConnectionGivesMemoryBack(t *testing.T) {
	for _, info := range []ExportInfo{everything(8 << 20), concurrent(8 << 20)} {
		s, err := NewServer(shelf{"": {disk: newDisk(8 << 20), info: info}}, ServerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		s.watch.idle = 5 * time.Millisecond
		r := listen(t, s)
		c := dial(t, r.uri(""), DialOptions{})
		for range 3 {
			p, got := pattern(1<<20, 3), make([]byte, 1<<20)
			if err := errors.Join(c.WriteAt(within(t), p, 0, 0), c.ReadAt(within(t), got, 0)); err != nil {
				t.Fatal(err)
			}
			wantBytes(t, got, p)
			eventually(t, "buffers are given back", func() bool { return s.budget.used.Load() == 0 })
		}
	}
}
