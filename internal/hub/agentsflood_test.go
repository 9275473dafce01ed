package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/vfs/crashfs"
)

// Connections that say nothing neither keep agents out nor stay.
func TestFloodOfStrangersIsBounded(t *testing.T) {
	const limit, flood = 8, 100
	r := newAgentsRig(t, func(c *agentsConfig) { c.Strangers = limit })
	id := r.agent("kvm1")
	f := r.connect(id)
	var open [flood]net.Conn
	for i := range open {
		open[i] = r.dial()
	}
	// One more is heard, so all before it have been counted.
	r.connect(r.agent("kvm2"))
	for i, c := range open[:flood-limit] {
		_ = c.SetReadDeadline(time.Now().Add(deadline))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("stranger %d: %v", i, err)
		}
	}
	r.log.await(t, "level=WARN", "too many connections")
	if f.Err() != nil {
		t.Errorf("the connected agent was cut off: %v", f.Err())
	}
}

// A stranger that stays silent is cut off when its time is up.
func TestSilentStrangerIsCutOff(t *testing.T) {
	r := newAgentsRig(t, func(c *agentsConfig) { c.Handshake = 50 * time.Millisecond })
	c := r.dial()
	_ = c.SetReadDeadline(time.Now().Add(deadline))
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("it is still there")
	}
	r.log.await(t, "level=WARN", "was refused", "deadline exceeded")
}

// fakeConn comes from an address.
type fakeConn struct {
	net.Conn
	from   string
	closed bool
}

type fakeAddr string

func (a fakeAddr) Network() string { return "tcp" }
func (a fakeAddr) String() string  { return string(a) }

func (c *fakeConn) RemoteAddr() net.Addr { return fakeAddr(c.from) }
func (c *fakeConn) Close() error         { c.closed = true; return nil }

// Who floods us from one address pushes out his own.
func TestFloodPushesOutItsOwn(t *testing.T) {
	a, err := newAgents(agentsConfig{Strangers: 4, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	p := &agentPort{agents: a, noise: rate.NewLimiter(1, 1)}
	p.mu.waiting = map[*stranger]struct{}{}
	honest := &fakeConn{from: "192.0.2.1:1"}
	p.admit(honest)
	var flood []*fakeConn
	for i := range 20 {
		c := &fakeConn{from: fmt.Sprintf("198.51.100.7:%d", i+1)}
		p.admit(c)
		flood = append(flood, c)
	}
	if honest.closed {
		t.Error("the honest one was pushed out")
	}
	for i, c := range flood {
		if c.closed != (i < 17) {
			t.Errorf("connection %d of the flood: closed %v", i, c.closed)
		}
	}
}

// tap is a proxy that keeps what the agent sends.
func tap(t *testing.T, to net.Addr) (net.Listener, func() []byte) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sent := &logText{}
	var wg sync.WaitGroup
	wg.Go(func() {
		near, err := l.Accept()
		if err != nil {
			return
		}
		defer near.Close()
		there, err := net.Dial("tcp", to.String())
		if err != nil {
			t.Error(err)
			return
		}
		defer there.Close()
		wg.Go(func() {
			_, _ = io.Copy(near, there) // until either side is done
			_ = near.Close()
		})
		_, _ = io.Copy(io.MultiWriter(sent, there), near)
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l, func() []byte {
		sent.mu.Lock()
		defer sent.mu.Unlock()
		return append([]byte{}, sent.buf.Bytes()...)
	}
}

// What was recorded on the wire, of a join and of a connection, is of no use.
func TestReplayIsRefused(t *testing.T) {
	r := newAgentsRig(t, nil)
	l, joined := tap(t, r.addr)
	direct := r.addr
	r.addr = l.Addr()
	id, err := r.join(crashfs.New(), r.token(api.TokenRequest{}), "kvm1")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = direct
	l, spoken := tap(t, r.addr)
	r.addr = l.Addr()
	f := r.connect(id)
	_ = f.Close()
	r.cut(f)
	r.addr = direct
	for what, bytes := range map[string][]byte{"join": joined(), "connection": spoken()} {
		if len(bytes) < 300 {
			t.Fatalf("%s: only %d bytes were recorded", what, len(bytes))
		}
		before := len(r.log.lines("connection to the agents' port was refused"))
		c := r.dial()
		_ = c.SetDeadline(time.Now().Add(deadline))
		if _, err := c.Write(bytes); err != nil {
			t.Logf("%s: cut off early: %v", what, err)
		}
		_, _ = io.Copy(io.Discard, c) // until the hub ends it
		eventually(t, "the replay of a "+what+" is logged", func(context.Context) error {
			if len(r.log.lines("level=WARN", "connection to the agents' port was refused")) == before {
				return errors.New("no")
			}
			return nil
		})
	}
	if n := len(r.log.lines("has joined")); n != 1 {
		t.Errorf("%d hosts joined", n)
	}
	if err := r.agents.call(t.Context(), id.Agent().ID.String(), "x", nil, nil); err == nil {
		t.Error("the replay is connected")
	}
}
