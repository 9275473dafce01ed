//go:build linux && !386 && !s390x

package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// sockets is a connected pair: the server's end, and the peer.
func sockets(t *testing.T, p *pollers) (*socket, *net.UnixConn) {
	t.Helper()
	l, err := net.Listen("unix", "@"+t.Name()+time.Now().Format(time.RFC3339Nano))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); peer.Close() })
	s := newSocket(c, p)
	if s == nil {
		t.Fatal("a unix connection is read through the runtime")
	}
	return s, peer.(*net.UnixConn)
}

func onePoller() *pollers { return &pollers{limit: 1} }

func TestWindowFollowsTheWaits(t *testing.T) {
	var s socket
	for _, step := range []struct{ waited, want time.Duration }{
		{time.Microsecond, minPoll}, {5 * time.Microsecond, minPoll}, {100 * time.Microsecond, 2 * minPoll}, {maxPoll, 4 * minPoll},
		{maxPoll, 8 * minPoll}, {maxPoll, 16 * minPoll}, {maxPoll, maxPoll}, {maxPoll, maxPoll},
		{maxPoll + 1, 0}, {maxPoll + 1, 0}, {maxPoll, minPoll},
	} {
		if s.learn(step.waited); s.window != step.want {
			t.Fatalf("window %v after a wait of %v, not %v", s.window, step.waited, step.want)
		}
	}
}

func TestPollersAreBounded(t *testing.T) {
	p := onePoller()
	if !p.take() || p.take() {
		t.Fatal("one is the limit")
	}
	if p.give(); !p.take() {
		t.Error("the place was not given back")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	if newPollers().take() {
		t.Error("polls with a single processor")
	}
}

// TestPollEnds with input, the end of the stream, and an error, and gives its place back each time. It polls once a read: a read
// that was woken for nothing does not poll again.
func TestPollEnds(t *testing.T) {
	s, peer := sockets(t, onePoller())
	s.window = time.Hour
	got := make(chan error, 1)
	read := func() {
		n, err := s.Read(make([]byte, 8))
		if err == nil && n != 3 {
			err = io.ErrShortBuffer
		}
		got <- err
	}
	polling := func() bool { return s.pollers.busy.Load() == 1 }
	go read()
	eventually(t, "it polls", polling)
	peer.Write([]byte("abc"))
	if err := <-got; err != nil || s.pollers.busy.Load() != 0 {
		t.Errorf("read while polling: %v, %d still poll", err, s.pollers.busy.Load())
	}
	s.start = time.Now()
	if s.raw.Control(func(fd uintptr) {
		s.in.p = make([]byte, 8)
		if s.tryRead(fd) {
			t.Error("read something out of nothing")
		}
	}) != nil || s.pollers.busy.Load() != 0 {
		t.Error("polls a second time")
	}
	s.window = time.Hour
	go read()
	eventually(t, "it polls", polling)
	peer.CloseWrite()
	if err := <-got; err != io.EOF || s.pollers.busy.Load() != 0 {
		t.Errorf("the end while polling: %v, %d still poll", err, s.pollers.busy.Load())
	}
	if n, err := s.Read(nil); n != 0 || err != nil {
		t.Errorf("read into nothing: %d, %v", n, err)
	}
}

// TestPartialReads poll briefly though the window is closed, and leave it alone.
func TestPartialReads(t *testing.T) {
	s, peer := sockets(t, onePoller())
	s.partial = true
	go peer.Write([]byte("a"))
	if n, err := s.Read(make([]byte, 8)); n != 1 || err != nil || s.window != 0 || s.pollers.busy.Load() != 0 {
		t.Errorf("%d bytes, %v, window %v", n, err, s.window)
	}
}

// TestSocketErrors are those of the runtime's own calls.
func TestSocketErrors(t *testing.T) {
	check := func(op string, err, is error) {
		t.Helper()
		var o *net.OpError
		if !errors.Is(err, is) || !errors.As(err, &o) || o.Op != op || o.Net != "unix" || o.Addr == nil {
			t.Errorf("%s: %#v", op, err)
		}
	}
	s, peer := sockets(t, onePoller())
	s.SetReadDeadline(aLongTimeAgo)
	_, err := s.Read(make([]byte, 1))
	check("read", err, os.ErrDeadlineExceeded)
	var ne net.Error
	if !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("%v is no timeout", err)
	}
	s.SetReadDeadline(time.Time{})
	s.Write([]byte("unread")) // makes the end a reset
	peer.Close()
	_, err = s.Read(make([]byte, 1))
	check("read", err, syscall.ECONNRESET)
	_, err = s.Write([]byte("a")) // and no signal
	check("write", err, syscall.EPIPE)
	s.Close()
	_, err = s.Read(make([]byte, 1))
	check("read", err, net.ErrClosed)
	_, err = s.Write(make([]byte, 1))
	check("write", err, net.ErrClosed)
}

// TestWritesAreWhole, however small the pieces in which they go, and Close ends one that nobody reads.
func TestWritesAreWhole(t *testing.T) {
	s, peer := sockets(t, onePoller())
	const n = 4 * rawMost
	got := make(chan []byte, 1)
	go func() {
		p := make([]byte, n)
		io.ReadFull(peer, p)
		got <- p
	}()
	want := pattern(n, 9)
	if m, err := s.Write(want); m != n || err != nil {
		t.Fatalf("wrote %d bytes: %v", m, err)
	}
	wantBytes(t, <-got, want)
	ended := make(chan error, 1)
	go func() {
		_, err := s.Write(make([]byte, 64<<20))
		ended <- err
	}()
	if _, err := io.ReadFull(peer, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("cut write: %v", err)
	}
}

// TestDescriptorMadeBlocking by the owner of a duplicate: no call may block a thread that the scheduler counts on.
func TestDescriptorMadeBlocking(t *testing.T) {
	d := newDisk(4096)
	opened := make(chan syscall.RawConn, 1)
	r := serve(t, opener{open: func(_ string, conn ConnInfo) (Backend, ExportInfo, error) {
		raw, err := conn.Conn.(syscall.Conn).SyscallConn()
		opened <- raw
		return d, concurrent(4096), err
	}}, ServerConfig{})
	c := dial(t, r.uri(""), DialOptions{})
	if err := (<-opened).Control(func(fd uintptr) { syscall.SetNonblock(int(fd), false) }); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteAt(within(t), []byte{7}, 0, 0); err != nil {
		t.Fatal(err)
	}
	runtime.GC() // needs every thread
	if err := r.Shutdown(within(t)); err != nil || d.closes() != 1 {
		t.Errorf("shutdown: %v, %d backends closed", err, d.closes())
	}
}

// wrapped counts what goes through a connection.
type wrapped struct {
	*net.UnixConn
	reads atomic.Int64
}

func (w *wrapped) Read(p []byte) (int, error) {
	w.reads.Add(1)
	return w.UnixConn.Read(p)
}

// TestWrappedConnection is not read behind its wrapper's back.
func TestWrappedConnection(t *testing.T) {
	inner, peer := sockets(t, onePoller())
	w := &wrapped{UnixConn: inner.Conn.(*net.UnixConn)}
	if newSocket(w, onePoller()) != nil {
		t.Error("the wrapper is passed by")
	}
	s, err := NewServer(shelf{"": {disk: newDisk(4096), info: everything(4096)}}, ServerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	done := make(chan error, 1)
	go func() { done <- s.ServeConn(context.Background(), w) }()
	c := &wire{t, peer}
	c.recv(18)
	c.u32(fixedClient)
	c.enter("")
	before := w.reads.Load()
	c.send(requestBytes(cmdFlush, 0, 1, 0, 0))
	c.wantReply(1, 0)
	c.send(requestBytes(cmdDisc, 0, 2, 0, 0))
	if err := <-done; err != nil || w.reads.Load() == before {
		t.Errorf("%v after %d reads", err, w.reads.Load()-before)
	}
}

// TestEndsOfConnections: between requests an end is orderly and what was asked is answered; in the middle it is not.
func TestEndsOfConnections(t *testing.T) {
	for _, test := range []struct {
		said []byte
		want error
	}{
		{requestBytes(cmdFlush, 0, 1, 0, 0), nil},
		{requestBytes(cmdFlush, 0, 1, 0, 0)[:13], io.ErrUnexpectedEOF},
		{append(requestBytes(cmdWrite, 0, 1, 0, 4096), 1, 2, 3), io.ErrUnexpectedEOF},
		{append(requestBytes(cmdWrite, 0, 1, 0, 1<<20), make([]byte, 300<<10)...), io.ErrUnexpectedEOF},
	} {
		for _, info := range []ExportInfo{everything(1 << 20), concurrent(1 << 20)} {
			inner, peer := sockets(t, onePoller())
			s, err := NewServer(shelf{"": {disk: newDisk(1 << 20), info: info}}, ServerConfig{})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- s.ServeConn(context.Background(), inner.Conn) }()
			c := &wire{t, peer}
			c.recv(18)
			c.u32(fixedClient)
			c.enter("")
			c.send(test.said)
			peer.CloseWrite()
			if test.want == nil {
				c.wantReply(1, 0)
			}
			if err := <-done; !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
				t.Errorf("%d bytes and the end: %v, not %v", len(test.said), err, test.want)
			}
			s.Close()
			if s.pollers.busy.Load() != 0 || s.budget.used.Load() != 0 {
				t.Error("something was not given back")
			}
		}
	}
}

// TestLeadChangesWhilePayloadsArrive: every call waits for one that is still to be received, so that each takes the lead away
// from the other, at payloads larger than any buffer.
func TestLeadChangesWhilePayloadsArrive(t *testing.T) {
	const area, rounds = 700 << 10, 12
	d := newDisk(2 * area)
	met := make(chan struct{})
	d.onWrite = func(ctx context.Context, _ int64, _ int, _ CommandFlags) error {
		select {
		case met <- struct{}{}:
		case <-met:
		case <-ctx.Done():
			return ctx.Err()
		}
		return nil
	}
	s, err := NewServer(shelf{"": {disk: d, info: concurrent(2 * area)}}, ServerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	s.pollers.limit = 8
	c := dial(t, listen(t, s).uri(""), DialOptions{})
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			for round := range rounds {
				if err := c.WriteAt(within(t), pattern(area, byte(2*round+i)), int64(i*area), 0); err != nil {
					t.Errorf("round %d: %v", round, err)
					return
				}
			}
		})
	}
	wg.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range 2 {
		wantBytes(t, d.data[i*area:(i+1)*area], pattern(area, byte(2*(rounds-1)+i)))
	}
}

// TestIdleConnectionsDoNotPoll, many as they are, and serve on.
func TestIdleConnectionsDoNotPoll(t *testing.T) {
	r := one(t, newDisk(4096), concurrent(4096))
	var all []*wire
	for range 200 {
		all = append(all, plug(t, r, fixedClient).enter(""))
	}
	for range 3 {
		for i, w := range all {
			w.send(requestBytes(cmdFlush, 0, uint64(i), 0, 0))
			w.wantReply(uint64(i), 0)
		}
		eventually(t, "nobody polls", func() bool { return r.pollers.busy.Load() == 0 })
	}
}

func TestSocketDoesNotAllocate(t *testing.T) {
	s, peer := sockets(t, onePoller())
	s.window = maxPoll
	in, out := make([]byte, 64), make([]byte, 64)
	if n := testing.AllocsPerRun(200, func() {
		peer.Write(out)
		s.Read(in)
		s.Write(in)
		peer.Read(out)
	}); n != 0 {
		t.Errorf("%v allocations a request", n)
	}
}

// TestTLSGoesThroughTheRuntime: the bytes below a TLS session are its own.
func TestTLSGoesThroughTheRuntime(t *testing.T) {
	cert, pool := certificate(t)
	r := serve(t, shelf{"": {disk: newDisk(4096), info: concurrent(4096)}}, ServerConfig{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}})
	sessions := func() (all, raw int) {
		r.watch.state.Lock()
		defer r.watch.state.Unlock()
		for s := range r.watch.state.sessions {
			if all++; s.sock != nil {
				raw++
			}
		}
		return all, raw
	}
	c := dial(t, r.uri(""), DialOptions{TLS: &tls.Config{RootCAs: pool, ServerName: "localhost"}, RequireTLS: true})
	if err := c.WriteAt(within(t), []byte{1}, 0, 0); err != nil {
		t.Fatal(err)
	}
	if all, raw := sessions(); all != 1 || raw != 0 {
		t.Errorf("%d of %d sessions read past TLS", raw, all)
	}
	plain := dial(t, r.uri(""), DialOptions{})
	if err := plain.WriteAt(within(t), []byte{1}, 0, 0); err != nil {
		t.Fatal(err)
	}
	if all, raw := sessions(); all != 2 || raw != 1 {
		t.Errorf("%d of %d sessions are read past the runtime, not the plain one", raw, all)
	}
}
