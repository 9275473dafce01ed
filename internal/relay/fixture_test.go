package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/crashfs"
	"github.com/rephub/rephub/journal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testDir  = "/group/journal"
	patience = 60 * time.Second
)

func groupID(n byte) journal.GroupID { return journal.GroupID{0x6f, 1, 2, 3, n} }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await calls cond whenever something may have changed, until it is true.
func await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited too long: %s", what)
		}
	}
}

func memFS(t testing.TB) *crashfs.FS {
	fs := crashfs.New()
	must(t, fs.MkdirAll(testDir, 0o700))
	return fs
}

func options(number bool) journal.Options {
	return journal.Options{SegmentBytes: 32 << 10, SegmentEntries: 64, MaxPending: 500, MaxOpenFiles: 4, Number: number}
}

func create(t testing.TB, fs vfs.FS, n byte, opt journal.Options) *journal.Log {
	t.Helper()
	l, err := journal.Create(fs, testDir, groupID(n), opt)
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func reopen(t testing.TB, fs vfs.FS, opt journal.Options) *journal.Log {
	t.Helper()
	l, err := journal.Open(fs, testDir, opt)
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// writer appends what a group's life brings.
type writer struct {
	t     testing.TB
	r     *rand.Rand
	l     *journal.Log
	epoch journal.Epoch
	wake  chan struct{}
}

func newWriter(t testing.TB, l *journal.Log, seed uint64, wake chan struct{}) *writer {
	w := &writer{t: t, r: rand.New(rand.NewPCG(seed, 7)), l: l, epoch: l.Timeline().Epoch, wake: wake}
	tl := l.Timeline()
	if _, ok := tl.Volume(1); !ok {
		must(t, l.AppendControl(w.epoch, journal.VolumeAdded{Volume: 1, Name: "a", Size: 1 << 30}))
	}
	w.attach()
	return w
}

func (w *writer) attach() {
	w.t.Helper()
	must(w.t, w.l.AppendControl(w.epoch+1, journal.Attach{Reason: "test"}, journal.SyncBegin{Volume: 1}))
	w.epoch++
	poke(w.wake)
}

// writes appends n writes of size bytes; every other one can be compressed.
func (w *writer) writes(n, size int) {
	w.t.Helper()
	first := w.l.Appended() + 1
	var region []byte
	for i := range n {
		h := journal.Header{Op: journal.OpWrite, Seq: first + journal.Seq(i), Volume: 1, Off: int64(w.r.IntN(2000)) * 512, Len: uint32(size), PayloadLen: uint32(size), Time: time.Now().UnixNano()}
		p := make([]byte, h.Size())
		h.Encode(p)
		for j := range size {
			if p[journal.EntryHeaderSize+j] = byte(i); i%2 == 0 {
				p[journal.EntryHeaderSize+j] = byte(w.r.Uint32())
			}
		}
		journal.CommitEntry(p)
		region = append(region, p...)
	}
	for {
		err := w.l.Append(journal.Batch{Kind: journal.KindWrites, Epoch: w.epoch, First: first, Regions: [][]byte{region}})
		if err == nil {
			break
		}
		if !errors.Is(err, journal.ErrBehind) {
			w.t.Fatal(err)
		}
	}
	poke(w.wake)
}

func (w *writer) step() {
	w.t.Helper()
	switch k := w.r.IntN(10); {
	case k < 7:
		w.writes(1+w.r.IntN(12), 512)
	case k == 7:
		err := w.l.AppendSync(w.epoch, 1, int64(w.r.IntN(100))*4096, 4096, bytes.Repeat([]byte{byte(w.r.Uint32())}, 4096))
		if errors.Is(err, journal.ErrWouldRewrite) {
			w.attach()
			err = nil
		}
		must(w.t, err)
	case k == 8:
		at := w.l.Appended()
		must(w.t, w.l.AppendControl(w.epoch, journal.SyncEnd{Volume: 1}, journal.Fence{Seq: at, Wall: time.Now().UnixNano(), Mono: int64(at)}))
	default:
		w.attach()
	}
	poke(w.wake)
}

// hub is a receiving machine.
type hub struct {
	t      testing.TB
	ln     net.Listener
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// startHub receives over plain TCP.
func startHub(t testing.TB, rc ReceiverConfig, cfg Config) *hub {
	t.Helper()
	return network{}.hub(t, rc, cfg)
}

// hub receives into what open says, at a port of its own.
func (n network) hub(t testing.TB, rc ReceiverConfig, cfg Config) *hub {
	t.Helper()
	if rc.SyncEvery == 0 {
		rc.SyncEvery = 2 * time.Millisecond
	}
	r, err := NewReceiver(rc)
	must(t, err)
	cfg.Receiver, cfg.Peer = r, "agent"
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	h := &hub{t: t, ln: ln, cancel: cancel}
	h.wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			h.wg.Go(func() {
				c, err := New(n.accepted(nc), cfg)
				if err != nil {
					t.Error(err)
					return
				}
				_ = c.Run(ctx)
			})
		}
	})
	t.Cleanup(h.stop)
	return h
}

func (h *hub) addr() string { return h.ln.Addr().String() }

func (h *hub) stop() {
	_ = h.ln.Close()
	h.cancel()
	h.wg.Wait()
}

// into opens one log for everybody.
func into(l *journal.Log) func(context.Context, string, Hello) (Journal, error) {
	return func(context.Context, string, Hello) (Journal, error) { return l, nil }
}

// dial makes a running connection over plain TCP; it ends with the test.
func dial(t testing.TB, addr string, cfg Config) *Conn {
	t.Helper()
	return network{}.dial(t, addr, cfg)
}

func (n network) dial(t testing.TB, addr string, cfg Config) *Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	must(t, err)
	return carry(t, n.dialled(nc), cfg)
}

// pair is a running connection between two sides; it ends with the test.
func pair(t testing.TB, left, right Config) (a, b *Conn) {
	t.Helper()
	return network{}.pair(t, left, right)
}

func (n network) pair(t testing.TB, left, right Config) (a, b *Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	a = n.dial(t, ln.Addr().String(), left)
	nc, err := ln.Accept()
	must(t, err)
	return a, carry(t, n.accepted(nc), right)
}

// carry runs a connection until the test ends.
func carry(t testing.TB, nc net.Conn, cfg Config) *Conn {
	t.Helper()
	c, err := New(nc, cfg)
	must(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Run(context.Background())
	}()
	t.Cleanup(func() {
		_ = c.Close()
		<-ended
	})
	return c
}

// agent ships a spool until it is stopped, over new connections when one ends.
type agent struct {
	t    testing.TB
	net  network
	s    *Sender
	addr string
	cfg  Config
	stop func()
	last chan error // a reason that does not go away
	runs chan error // why a run ended; the newest few
}

func startAgent(t testing.TB, spool *journal.Log, wake chan struct{}, addr string, cfg Config, changed func(*Sender)) *agent {
	t.Helper()
	return network{}.agent(t, spool, wake, addr, cfg, changed)
}

func (n network) agent(t testing.TB, spool *journal.Log, wake chan struct{}, addr string, cfg Config, changed func(*Sender)) *agent {
	t.Helper()
	a := &agent{t: t, net: n, addr: addr, cfg: cfg, last: make(chan error, 1), runs: make(chan error, 100)}
	var err error
	a.s, err = NewSender(SenderConfig{Log: spool, Wake: wake, Changed: func() {
		if changed != nil && a.s != nil {
			changed(a.s)
		}
	}})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.last <- a.run(ctx)
	}()
	a.stop = func() { cancel(); <-done }
	t.Cleanup(a.stop)
	return a
}

func (a *agent) run(ctx context.Context) error {
	for ctx.Err() == nil {
		nc, err := net.Dial("tcp", a.addr)
		if err != nil {
			continue
		}
		c, err := New(a.net.dialled(nc), a.cfg)
		if err != nil {
			return err
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = c.Run(ctx)
		}()
		err = a.s.Run(ctx, c)
		_ = c.Close()
		<-ended
		if errors.Is(err, ErrDiverged) || errors.Is(err, ErrRefused) {
			return err
		}
		select {
		case a.runs <- err:
		default:
		}
	}
	return ctx.Err()
}

// entries is every entry of a log but the records it made for itself. A spool
// may drop what is being read, whenever it likes; then it is read again.
func entries(t testing.TB, l *journal.Log) []string {
	t.Helper()
	for {
		all, err := scan(l)
		if !errors.Is(err, journal.ErrDropped) {
			must(t, err)
			return all
		}
	}
}

func scan(l *journal.Log) (all []string, err error) {
	err = l.Scan(0, func(h journal.Header, payload func() ([]byte, error)) error {
		p, err := payload()
		if h.Op != journal.OpBaseMoved {
			all = append(all, fmt.Sprintf("%+v %x", h, p))
		}
		return err
	})
	return all, err
}

// same wants the shorter log to be the end of the other one.
func same(t testing.TB, spool, hub *journal.Log) {
	t.Helper()
	if spool.Serial() != hub.Serial() || spool.Appended() != hub.Appended() {
		t.Fatalf("the spool ends at batch %d, seq %d; the hub at %d, %d", spool.Serial(), spool.Appended(), hub.Serial(), hub.Appended())
	}
	a, b := entries(t, spool), entries(t, hub)
	n := min(len(a), len(b))
	a, b = a[len(a)-n:], b[len(b)-n:]
	for i := range a {
		if a[i] != b[i] {
			t.Fatalf("entry %d from the end differs:\n%s\n%s", n-i, a[i], b[i])
		}
	}
	if n == 0 {
		t.Fatal("there is nothing to compare")
	}
}
