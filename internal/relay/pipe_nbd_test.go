package relay

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rephub/rephub/journal"
	"github.com/rephub/rephub/nbd"
)

// disk is a volume in memory that an NBD server exports.
type disk struct {
	mu   sync.RWMutex
	data []byte
}

func (d *disk) List(context.Context) ([]string, error) { return []string{"disk"}, nil }
func (d *disk) Info(context.Context, string) (nbd.ExportInfo, error) {
	return nbd.ExportInfo{Name: "disk", Size: int64(len(d.data)), CanFlush: true, Concurrent: true}, nil
}
func (d *disk) Open(ctx context.Context, name string, _ nbd.ConnInfo) (nbd.Backend, nbd.ExportInfo, error) {
	info, err := d.Info(ctx, name)
	return d, info, err
}
func (d *disk) ReadAt(_ context.Context, p []byte, off int64) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	copy(p, d.data[off:])
	return nil
}
func (d *disk) WriteAt(_ context.Context, p []byte, off int64, _ nbd.CommandFlags) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.data[off:], p)
	return nil
}
func (d *disk) WriteZeroes(ctx context.Context, off, n int64, f nbd.CommandFlags) error {
	return d.WriteAt(ctx, make([]byte, n), off, f)
}
func (d *disk) Trim(context.Context, int64, int64, nbd.CommandFlags) error { return nil }
func (d *disk) Flush(context.Context) error                                { return nil }
func (d *disk) Close() error                                               { return nil }

// NBD runs over pipes, 16 requests of 1 MiB in flight each way, while a journal
// ships over the same connection: each goes on while the other one is busy.
func TestNBDOverPipe(t *testing.T) {
	n := secure(t)
	const workers, size = 16, 1 << 20
	far := create(t, memFS(t), 1, journal.Options{})
	r, err := NewReceiver(ReceiverConfig{Open: into(far)})
	must(t, err)
	d := &disk{data: make([]byte, workers*size)}
	srv, err := nbd.NewServer(d, nbd.ServerConfig{})
	must(t, err)
	t.Cleanup(func() { _ = srv.Close() })
	a, b := n.pair(t, Config{}, Config{Receiver: r, Pipes: func(ctx context.Context, _, _ string, conn net.Conn) error {
		return srv.ServeConn(ctx, conn)
	}})
	conn, err := a.Pipe(t.Context(), "disk")
	must(t, err)
	cl, err := nbd.NewClient(t.Context(), conn, nbd.DialOptions{Export: "disk"})
	must(t, err)
	defer cl.Close()

	spool, wake := create(t, memFS(t), 1, journal.Options{Number: true}), make(chan struct{}, 1)
	w := newWriter(t, spool, 1, wake)
	s, err := NewSender(SenderConfig{Log: spool, Wake: wake})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	shipped := make(chan error, 1)
	go func() { shipped <- s.Run(ctx, a) }()
	defer func() { cancel(); <-shipped }()

	var rounds [workers]atomic.Int64
	work := func(i int) error {
		want, got := noise(size, uint64(i)), make([]byte, size)
		for ctx.Err() == nil {
			want[0]++
			if err := cl.WriteAt(t.Context(), want, int64(i)*size, 0); err != nil {
				return err
			}
			if err := cl.ReadAt(t.Context(), got, int64(i)*size); err != nil {
				return err
			}
			if !bytes.Equal(got, want) {
				return fmt.Errorf("worker %d reads what it did not write", i)
			}
			rounds[i].Add(1)
		}
		return nil
	}
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			if err := work(i); err != nil {
				t.Error(err)
				cancel()
			}
		})
	}
	defer func() { cancel(); wg.Wait() }()
	// The journal gets through while NBD never pauses.
	for range 10 {
		w.writes(2, 16<<10)
		must(t, s.Wait(ctx, spool.Serial()))
	}
	// NBD gets through while there is always something left to ship.
	var before [workers]int64
	for i := range rounds {
		before[i] = rounds[i].Load()
	}
	await(t, "everybody's requests are answered", func() bool {
		for s.Status().Sent+4 > spool.Serial() {
			w.writes(2, 16<<10)
		}
		for i := range rounds {
			if rounds[i].Load() == before[i] && ctx.Err() == nil {
				return false
			}
		}
		return true
	})
	must(t, s.Wait(ctx, spool.Serial()))
	cancel()
	wg.Wait()
	must(t, cl.Close())
	await(t, "the pipe is over", func() bool { return a.streams()+b.streams() <= 2 }) // the journal's own may end later
	same(t, spool, far)
}

// A pipe's data counts against the limit, and is compressed when that pays.
func TestPipeIsLimited(t *testing.T) {
	cfg, ch := serving()
	cfg.Handler = nil
	h := startHub(t, ReceiverConfig{Open: func(context.Context, string, Hello) (Journal, error) { return nil, ErrRefused }}, cfg)
	p := newProxy(t, h.addr())
	a := dial(t, p.addr(), Config{Limit: 1})
	near, far := open(t, a, ch, "x")
	zero := make([]byte, 2*pipeWindow)
	go func() { _, _ = far.Write(zero) }()
	got := make([]byte, len(zero))
	if _, err := io.ReadFull(near, got); err != nil { // only what we send is limited
		t.Fatal(err)
	}
	p.mu.Lock()
	through := p.mu.through
	p.mu.Unlock()
	if through > int64(len(zero))/4 {
		t.Errorf("%d zeroes took %d bytes", len(zero), through)
	}

	want := noise(2*pipeWindow, 1)
	sent := 0
	for range 20 { // writes that gave up have used nothing up
		must(t, near.SetWriteDeadline(time.Now().Add(time.Millisecond)))
		n, err := near.Write(want[sent:])
		if sent += n; !timedOut(err) {
			t.Fatalf("2 MiB went through at a byte per second: %v", err)
		}
	}
	must(t, near.SetWriteDeadline(time.Time{}))
	wrote := make(chan error, 1)
	go func() {
		_, err := near.Write(want[sent:])
		wrote <- err
	}()
	if _, err := io.ReadFull(far, got[:1000]); err != nil { // the first frame is free
		t.Fatal(err)
	}
	for range 200 {
		if err := a.Call(t.Context(), "any", nil, nil); err == nil {
			t.Fatal("there is no handler")
		}
	}
	select {
	case err := <-wrote:
		t.Errorf("2 MiB went through at a byte per second: %v", err)
	default:
	}
	a.SetLimit(1 << 30) // counts at once, not after the wait for the old one
	if _, err := io.ReadFull(far, got[1000:]); err != nil || !bytes.Equal(got, want) {
		t.Errorf("bytes changed on the way: %v", err)
	}
	must(t, <-wrote)
	await(t, "the window is whole again", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return near.(*pipe).st.credit > pipeWindow-pipeWindow/4 // the rest is granted later
	})
}
