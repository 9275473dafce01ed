package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
)

// served is the other end of a pipe whose handler waits until the test is done
// with it, or the connection is over.
type served struct {
	net.Conn
	peer, name string
	ctx        context.Context
	end        chan error
}

// serving hands the pipes out that come.
func serving() (Config, chan *served) {
	ch := make(chan *served, 2*maxPipes)
	return Config{Peer: "other", Pipes: func(ctx context.Context, peer, name string, conn net.Conn) error {
		s := &served{Conn: conn, peer: peer, name: name, ctx: ctx, end: make(chan error, 1)}
		ch <- s
		select {
		case err := <-s.end:
			return err
		case <-conn.(*pipe).st.c.Done():
			return ctx.Err()
		}
	}}, ch
}

// open opens a pipe and lets it in.
func open(t testing.TB, c *Conn, ch chan *served, name string) (net.Conn, *served) {
	t.Helper()
	var far *served
	var wg sync.WaitGroup
	wg.Go(func() {
		far = <-ch
		_, _ = far.Write(nil)
	})
	near, err := c.Pipe(t.Context(), name)
	must(t, err)
	wg.Wait()
	return near, far
}

func noise(n int, seed uint64) []byte {
	r, p := rand.New(rand.NewPCG(seed, 3)), make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// Both sides open pipes under the same numbers, and bytes go both ways through
// all of them at once.
func TestPipes(t *testing.T) { overAll(t, pipes) }

func pipes(t *testing.T, n network) {
	echo := Config{Peer: "other", Pipes: func(_ context.Context, peer, name string, conn net.Conn) error {
		if _, err := fmt.Fprintf(conn, "%-20s", peer+" "+name); err != nil {
			return err
		}
		_, err := io.Copy(conn, conn)
		return err
	}}
	a, b := n.pair(t, echo, echo)
	var wg sync.WaitGroup
	for i := range 6 {
		c := []*Conn{a, b}[i%2]
		wg.Go(func() {
			name := fmt.Sprintf("pipe %d", i)
			p, err := c.Pipe(t.Context(), name)
			if err != nil {
				t.Error(err)
				return
			}
			defer p.Close()
			want := noise(3<<20, uint64(i))
			if i%3 == 0 {
				want = bytes.Repeat([]byte("all work and no play "), 200000)
			}
			go func() {
				for q := want; len(q) > 0; {
					n := min(len(q), 1+rand.IntN(400<<10))
					if _, err := p.Write(q[:n]); err != nil {
						t.Errorf("write: %v", err)
					}
					q = q[n:]
				}
			}()
			got := make([]byte, 20+len(want))
			if _, err := io.ReadFull(p, got); err != nil {
				t.Errorf("%s: %v", name, err)
			} else if string(got[:12]) != "other "+name[:6] || !bytes.Equal(got[20:], want) {
				t.Errorf("%s: %q and %d bytes came back changed", name, got[:20], len(want))
			}
		})
	}
	wg.Wait()
	must(t, a.Err())
	for _, c := range []*Conn{a, b} {
		await(t, "the pipes are forgotten", func() bool { return c.streams() == 0 })
	}
}

func (c *Conn) streams() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, k := range c.mu.counts {
		n += k
	}
	return max(n, len(c.mu.streams))
}

func TestPipeRefused(t *testing.T) {
	var peer *PeerError
	a, b := pair(t, Config{Pipes: func(ctx context.Context, _, name string, conn net.Conn) error {
		switch name {
		case "none":
			return &RemoteError{Code: "not-found", Message: "no such volume"}
		case "bad":
			return errors.New("it went wrong")
		case "well":
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}}, Config{})
	for name, want := range map[string]string{"none": "not-found", "bad": "again", "well": "done"} {
		if p, err := b.Pipe(t.Context(), name); !errors.As(err, &peer) || peer.Code != want || p != nil || !strings.Contains(err.Error(), name) {
			t.Errorf("pipe %s: %v", name, err)
		}
	}
	if _, err := a.Pipe(t.Context(), "x"); !errors.Is(err, ErrRefused) || !errors.As(err, &peer) || peer.Code != "refused" {
		t.Errorf("a pipe that nobody serves: %v", err)
	}
	if _, err := b.Pipe(t.Context(), strings.Repeat("x", maxPipeName+1)); err == nil {
		t.Error("a long name was taken")
	}
	// Not waited for: the slot comes back when the handler has returned.
	for range 2 * maxPipes {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if _, err := b.Pipe(ctx, "hang"); !errors.Is(err, context.Canceled) {
			t.Fatalf("a pipe that is not waited for: %v", err)
		}
		await(t, "the slot comes back", func() bool { return b.streams() == 0 })
	}
	must(t, a.Err())
	must(t, b.Err())
}

// There are no more than so many, counted apart for either side, and a slot
// comes back only when both ends are closed.
func TestPipesAreBounded(t *testing.T) {
	cfg, ch := serving()
	a, b := pair(t, cfg, cfg)
	var ends []net.Conn
	var fars []*served
	for _, c := range []*Conn{a, b} {
		for range maxPipes {
			near, far := open(t, c, ch, "x")
			ends, fars = append(ends, near), append(fars, far)
		}
		if _, err := c.Pipe(t.Context(), "one more"); err == nil || !strings.Contains(err.Error(), "no more") {
			t.Errorf("one more: %v", err)
		}
	}
	fars[0].end <- nil
	if _, err := ends[0].Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the handler has returned: %v", err)
	}
	if _, err := a.Pipe(t.Context(), "one more"); err == nil {
		t.Error("a pipe that is not closed on our side is not counted")
	}
	must(t, ends[0].Close())
	await(t, "the slot comes back", func() bool { return a.streams() < 2*maxPipes })
	open(t, a, ch, "x")
	must(t, a.Err())
	must(t, b.Err())
}

// What was written before the end arrives, then the reason.
func TestPipeEnds(t *testing.T) { overAll(t, pipeEnds) }

func pipeEnds(t *testing.T, n network) {
	cfg, ch := serving()
	want := noise(pipeWindow+1000, 1)
	for _, tc := range []struct {
		ended error
		check func(error) bool
	}{
		{nil, func(err error) bool { return err == nil }},
		{&RemoteError{Code: "stale", Message: "old hashes"}, func(err error) bool {
			var peer *PeerError
			return errors.As(err, &peer) && peer.Code == "stale" && peer.Reason == "old hashes"
		}},
		{ErrDiverged, func(err error) bool { return errors.Is(err, ErrDiverged) }},
	} {
		a, b := n.pair(t, Config{}, cfg)
		near, far := open(t, a, ch, "x")
		go func() {
			_, err := far.Write(want)
			if err == nil {
				err = far.Close()
			}
			if _, again := far.Write(want); !errors.Is(again, net.ErrClosed) {
				t.Errorf("write after close: %v", again)
			}
			if err := far.ctx.Err(); err != nil {
				t.Errorf("the handler's context after its own close: %v", err)
			}
			far.end <- errors.Join(tc.ended, err)
		}()
		got, err := io.ReadAll(near)
		if !bytes.Equal(got, want) || !tc.check(err) {
			t.Errorf("it ended with %v: %d bytes, %v", tc.ended, len(got), err)
		}
		if _, err := near.Write(want); err == nil || tc.ended == nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("write to a pipe that is over: %v", err)
		}

		// The opener closes: the handler's context ends and it reads no more.
		near2, far2 := open(t, a, ch, "y")
		_, err = near2.Write(want[:1000])
		must(t, err)
		must(t, near2.Close())
		must(t, near2.Close())
		if _, err := near2.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after close: %v", err)
		}
		<-far2.ctx.Done()
		if got, err := io.ReadAll(far2); err != nil || !bytes.Equal(got, want[:1000]) {
			t.Errorf("the handler read %d bytes, %v", len(got), err)
		}

		// The connection breaks.
		near3, far3 := open(t, a, ch, "z")
		must(t, b.Close())
		for _, p := range []net.Conn{near3, far3} {
			if _, err := io.Copy(io.Discard, p); err == nil {
				t.Error("a broken connection looks like an end in order")
			}
		}
		if _, err := near3.Write(want); err == nil {
			t.Error("it can still be written to")
		}
		if _, err := a.Pipe(t.Context(), "late"); err == nil {
			t.Error("a pipe was opened over a broken connection")
		}
	}
}

// A side that does not read a pipe stops only that pipe, and gets no more than
// the window; when it reads, all is there.
func TestPipeStalls(t *testing.T) { overAll(t, pipeStalls) }

func pipeStalls(t *testing.T, n network) {
	far := create(t, memFS(t), 1, options(false))
	r, err := NewReceiver(ReceiverConfig{Open: into(far)})
	must(t, err)
	cfg, ch := serving()
	cfg.Receiver = r
	cfg.Handler = func(context.Context, string, string, json.RawMessage) (any, error) { return "well", nil }
	a, b := n.pair(t, Config{}, cfg)
	hung, hungFar := open(t, a, ch, "hung")
	want := noise(3*pipeWindow, 1)
	wrote := make(chan error, 1)
	go func() {
		_, err := hung.Write(want)
		wrote <- err
	}()
	held := func() int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(hungFar.Conn.(*pipe).st.in)
	}
	await(t, "the window is full", func() bool { return held() == pipeWindow })

	spool, wake := create(t, memFS(t), 1, options(true)), make(chan struct{}, 1)
	w := newWriter(t, spool, 1, wake)
	s, err := NewSender(SenderConfig{Log: spool, Wake: wake})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	shipped := make(chan error, 1)
	go func() { shipped <- s.Run(ctx, a) }()
	defer func() { cancel(); <-shipped }()
	for range 100 {
		w.step()
	}
	must(t, s.Wait(t.Context(), spool.Serial()))
	must(t, a.Call(t.Context(), "how", nil, nil))
	near, other := open(t, a, ch, "well")
	go func() { _, _ = io.Copy(other, other) }()
	go func() { _, _ = near.Write(want) }()
	got := make([]byte, len(want))
	_, err = io.ReadFull(near, got)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("bytes changed on the way")
	}
	if n := held(); n != pipeWindow {
		t.Errorf("%d bytes of the hung pipe are kept", n)
	}
	_, err = io.ReadFull(hungFar, got)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("bytes changed while they waited")
	}
	must(t, <-wrote)
}
