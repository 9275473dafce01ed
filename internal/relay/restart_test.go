package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rephub/rephub/journal"
)

// site is a hub's machine that can lose power.
type site struct {
	mu  sync.Mutex
	log *journal.Log
}

func (s *site) get() *journal.Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log
}

func (s *site) set(l *journal.Log) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = l
}

func (s *site) open(context.Context, string, Hello) (Journal, error) { return s.get(), nil }

// Both machines lose power again and again; no batch is missing, doubled or
// changed afterwards, and nothing that was confirmed is gone.
func TestPowerLoss(t *testing.T) {
	behind := 0
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 2))
		disk, far := memFS(t), memFS(t)
		spool := create(t, disk, 1, options(true))
		s := &site{log: create(t, far, 1, options(false))}
		h := startHub(t, ReceiverConfig{Open: s.open, Window: 16 << 10}, Config{})
		wake := make(chan struct{}, 1)
		w := newWriter(t, spool, seed, wake)
		a := startAgent(t, spool, wake, h.addr(), Config{}, nil)
		lives := 0
		for range 12 {
			for range 1 + r.IntN(40) {
				w.step()
			}
			some := spool.Serial() - journal.Serial(r.IntN(10))
			await(t, "some of it is durable", func() bool { return a.s.Durable().Serial >= some })
			if r.IntN(2) == 0 {
				_, err := spool.Sync()
				must(t, err)
			}
			w.step()
			if r.IntN(2) == 0 {
				await(t, "the hub has what the spool has not synced", func() bool { return a.s.Durable().Serial == spool.Serial() })
			}
			promised := a.s.Durable()
			if r.IntN(2) == 0 {
				h.stop()
				after := far.Crash(seed)
				_ = s.get().Close()
				far = after
				s.set(reopen(t, far, options(false)))
				if l := s.get(); l.Serial() < promised.Serial || l.Appended() < promised.Seq {
					t.Fatalf("%+v was confirmed, after the power loss there are batch %d, seq %d", promised, l.Serial(), l.Appended())
				}
				h = startHub(t, ReceiverConfig{Open: s.open, Window: 16 << 10}, Config{})
				a.stop()
				a = startAgent(t, spool, wake, h.addr(), Config{}, nil)
				continue
			}
			// The agent's machine: its spool may now be behind the hub.
			a.stop()
			h.stop() // what was on its way is in the hub's journal, or lost
			h = startHub(t, ReceiverConfig{Open: s.open, Window: 16 << 10}, Config{})
			after := disk.Crash(seed)
			_ = spool.Close()
			disk = after
			spool = reopen(t, disk, options(true))
			ahead := s.get().Serial() > spool.Serial()
			a = startAgent(t, spool, wake, h.addr(), Config{}, nil)
			if ahead {
				lives++
				if err := <-a.last; !errors.Is(err, ErrDiverged) && !errors.Is(err, ErrRefused) { // refused: it has lost an attach
					t.Fatalf("the hub is ahead of the spool: %v", err)
				}
				end, opt := s.get().End(), options(true)
				opt.Start = &end
				disk = memFS(t)
				spool = create(t, disk, 1, opt)
				a = startAgent(t, spool, wake, h.addr(), Config{}, nil)
			}
			w = newWriter(t, spool, seed+100, wake)
		}
		await(t, "all is durable", func() bool { return a.s.Durable().Serial == spool.Serial() })
		same(t, spool, s.get())
		a.stop()
		h.stop()
		behind += lives
	}
	if behind == 0 {
		t.Error("no spool was behind the hub after a power loss")
	}
}

// A network that swallows everything is noticed on both sides, and afterwards
// the next batch is the one that comes next.
func TestBlackhole(t *testing.T) { overAll(t, blackhole) }

func blackhole(t *testing.T, n network) {
	spool, far := create(t, memFS(t), 1, options(true)), create(t, memFS(t), 1, options(false))
	short := Config{Ping: 20 * time.Millisecond, Silence: 400 * time.Millisecond}
	h := n.hub(t, ReceiverConfig{Open: into(far)}, short)
	p := newProxy(t, h.addr())
	wake := make(chan struct{}, 1)
	w := newWriter(t, spool, 1, wake)
	a := n.agent(t, spool, wake, p.addr(), short, nil)
	for range 3 {
		w.step()
		await(t, "it is durable", func() bool { return a.s.Durable().Serial == spool.Serial() })
		for len(a.runs) > 0 {
			<-a.runs
		}
		p.blackhole()
		for range 30 {
			w.step()
		}
		if err := <-a.runs; !errors.Is(err, ErrSilent) {
			t.Fatalf("in the hole: %v", err)
		}
		if a.s.Durable().Serial == spool.Serial() {
			t.Fatal("what fell into the hole is confirmed")
		}
		p.heal()
		await(t, "it goes on", func() bool { return a.s.Durable().Serial == spool.Serial() })
	}
	same(t, spool, far)
	if p.swallowed() == 0 {
		t.Error("the hole swallowed nothing")
	}
}

// A peer that is silent because it has nothing to say is not given up.
func TestPingsKeepAQuietConnection(t *testing.T) { overAll(t, pingsKeepAQuietConnection) }

func pingsKeepAQuietConnection(t *testing.T, n network) {
	far := create(t, memFS(t), 1, options(false))
	h := n.hub(t, ReceiverConfig{Open: into(far)}, Config{Ping: 10 * time.Millisecond, Silence: 2 * time.Second})
	p := newProxy(t, h.addr())
	c := n.dial(t, p.addr(), Config{Ping: 10 * time.Millisecond, Silence: 2 * time.Second})
	through := func() int64 {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.mu.through
	}
	await(t, "many pings pass", func() bool { return through() > 400*frameHeader || c.Err() != nil })
	must(t, c.Err())
}

// A slow network is not a dead one, and a delay does not confuse anybody.
func TestSlowNetwork(t *testing.T) { overAll(t, slowNetwork) }

func slowNetwork(t *testing.T, n network) {
	spool, far := create(t, memFS(t), 1, options(true)), create(t, memFS(t), 1, options(false))
	short := Config{Ping: 50 * time.Millisecond, Silence: time.Second}
	h := n.hub(t, ReceiverConfig{Open: into(far)}, short)
	p := newProxy(t, h.addr())
	p.mu.Lock()
	p.mu.delay, p.mu.rate = 5*time.Millisecond, 200<<10
	p.mu.Unlock()
	wake := make(chan struct{}, 1)
	w := newWriter(t, spool, 1, wake)
	for range 30 {
		w.writes(8, 1024)
	}
	a := n.agent(t, spool, wake, p.addr(), short, nil)
	await(t, "all is durable", func() bool { return a.s.Durable().Serial == spool.Serial() })
	same(t, spool, far)
	if len(a.runs) > 0 {
		t.Errorf("the connection ended: %v", <-a.runs)
	}
}

// A peer that says that it lives and takes nothing is given up, and nobody waits
// for it: not for the write under way, and not for a farewell.
func TestDeafPeer(t *testing.T) { overAll(t, deafPeer) }

func deafPeer(t *testing.T, n network) {
	for silence := 300 * time.Millisecond; ; silence *= 2 {
		near, _ := deafened(t, n)
		c, err := New(near, Config{Ping: 10 * time.Millisecond, Silence: silence})
		must(t, err)
		var wg sync.WaitGroup
		for range maxCalls {
			wg.Go(func() { _ = c.Call(t.Context(), "x", strings.Repeat("x", maxControl/2), nil) })
		}
		err = c.Run(t.Context())
		wg.Wait()
		if !errors.Is(err, ErrSilent) {
			t.Fatalf("it ended with: %v", err)
		}
		if strings.Contains(err.Error(), "took nothing") {
			break
		}
		// This machine is too busy for the peer to be heard in time.
	}
	near, nc := deafened(t, n)
	fill(t, nc)
	if err := hangUp(near); n.client != nil && !errors.Is(err, net.ErrClosed) {
		t.Errorf("the farewell was not cut off: %v", err) // TLS would have waited longer
	}
	if _, err := nc.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the farewell: %v", err)
	}
}

// deafened is a connection, and what is below its TLS, to a peer that sends pings
// and reads nothing.
func deafened(t *testing.T, n network) (near, below net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	below, err = net.Dial("tcp", ln.Addr().String())
	must(t, err)
	must(t, below.(*net.TCPConn).SetWriteBuffer(4<<10))
	peer, err := ln.Accept()
	must(t, err)
	must(t, peer.(*net.TCPConn).SetReadBuffer(4<<10))
	far, near := n.accepted(peer), n.dialled(below)
	if n.client != nil {
		shaken := make(chan error, 1)
		go func() { shaken <- far.(*tls.Conn).Handshake() }()
		must(t, near.(*tls.Conn).Handshake())
		must(t, <-shaken)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		say := appendFrame(nil, typePreface, 0, preface())
		for ; ; <-tick.C {
			if _, err := far.Write(say); err != nil {
				return
			}
			say = appendFrame(nil, typePing, 0, nil)
		}
	})
	t.Cleanup(func() {
		_ = below.Close()
		_ = peer.Close()
		wg.Wait()
	})
	return near, below
}

// fill writes into a connection that nobody reads until no more fits.
func fill(t *testing.T, nc net.Conn) {
	t.Helper()
	for {
		must(t, nc.SetWriteDeadline(time.Now().Add(50*time.Millisecond)))
		if _, err := nc.Write(make([]byte, 64<<10)); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else {
			must(t, err)
		}
	}
	must(t, nc.SetWriteDeadline(time.Time{}))
}
