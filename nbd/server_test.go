package nbd

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestListAndInspect(t *testing.T) {
	info := ExportInfo{Name: "canonical", Description: "a disk", Size: 12345, ReadOnly: true, Rotational: true, MinBlock: 512, MaxBlock: 1 << 20,
		Contexts: []string{"x-test:map"}}
	r := serve(t, shelf{"a": {info: info}, "b": {err: ErrNotPermitted}, "c": {err: ErrShutdown}, "d": {err: errors.New("secret")}}, ServerConfig{})
	list, err := List(within(t), r.uri(""), DialOptions{})
	if err != nil || len(list) != 4 || list[0].Name != "a" {
		t.Fatalf("list %v, %v", list, err)
	}
	got, err := Inspect(within(t), r.uri("a"), DialOptions{NoExtendedHeaders: true})
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != "canonical" || got.Description != "a disk" || got.Size != 12345 || got.Flags != HasFlags|ReadOnly|Rotational|SendDF ||
		got.MinBlock != 512 || got.PreferredBlock != 4096 || got.MaxBlock != 1<<20 || !slices.Equal(got.Contexts, []string{ContextAllocation, "x-test:map"}) {
		t.Errorf("inspected %+v", got)
	}
	for name, want := range map[string]error{"b": ErrNotPermitted, "c": ErrShutdown, "d": ErrUnknownExport, "e": ErrUnknownExport} {
		if _, err := Inspect(within(t), r.uri(name), DialOptions{}); !errors.Is(err, want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("inspect %s: %v", name, err)
		}
		if _, err := Dial(within(t), r.uri(name), DialOptions{}); !errors.Is(err, want) {
			t.Errorf("dial %s: %v", name, err)
		}
	}
}

// TestNameOfTheConnection: Open hears the name that was sent, the accepted connection, and the TLS state.
func TestConnInfo(t *testing.T) {
	cert, pool := certificate(t)
	got := make(chan ConnInfo, 1)
	r := serve(t, opener{shelf{}, func(name string, conn ConnInfo) (Backend, ExportInfo, error) {
		got <- conn
		return newDisk(512), everything(512), nil
	}}, ServerConfig{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}})
	dial(t, r.uri("näme"), DialOptions{})
	info := <-got
	if _, ok := info.Conn.(*net.UnixConn); !ok || info.Name != "näme" || info.TLS != nil {
		t.Errorf("connection info %+v", info)
	}
	r.scheme = "nbds+unix"
	c := dial(t, r.uri("x"), DialOptions{TLS: &tls.Config{RootCAs: pool}})
	info = <-got
	if _, ok := info.Conn.(*net.UnixConn); !ok || info.TLS == nil || !c.Info().TLS {
		t.Errorf("connection info under TLS %+v", info)
	}
	if _, err := Dial(within(t), r.uri("x"), DialOptions{}); err == nil {
		t.Error("a certificate of nobody was accepted")
	}
}

// opener overrides Open.
type opener struct {
	shelf
	open func(name string, conn ConnInfo) (Backend, ExportInfo, error)
}

func (o opener) Open(_ context.Context, name string, conn ConnInfo) (Backend, ExportInfo, error) {
	return o.open(name, conn)
}

func TestRequireTLS(t *testing.T) {
	cert, _ := certificate(t)
	r := serve(t, shelf{"": {disk: newDisk(512), info: everything(512)}}, ServerConfig{RequireTLS: true, TLS: &tls.Config{Certificates: []tls.Certificate{cert}}})
	if _, err := Dial(within(t), r.uri(""), DialOptions{}); !errors.Is(err, ErrTLSRequired) {
		t.Errorf("dial without TLS: %v", err)
	}
	w := plug(t, r, fixedClient)
	for _, o := range []option{optList, optInfo, optGo, optStructuredReply, optExtendedHeaders, optSetMetaContext, option(77)} {
		w.wantOption(o, nil, repErrTLSReqd)
	}
	w.wantOption(optStartTLS, []byte{1}, repErrInvalid)
	w.wantOption(optAbort, nil, repAck)
	w.hungUp()
	w = plug(t, r, fixedClient)
	w.send(optionBytes(optExportName, nil))
	w.hungUp()
	w = plug(t, r, fixedClient)
	w.send(append(optionBytes(optStartTLS, nil), optionBytes(optList, nil)...)) // injected before TLS
	w.recv(0)
	w.hungUp()
	plain := one(t, newDisk(512), everything(512))
	plain.scheme = "nbds+unix"
	if _, err := Dial(within(t), plain.uri(""), DialOptions{}); err == nil {
		t.Error("nbds went on without TLS")
	}
}

func TestHandshakeRefusals(t *testing.T) {
	r := serve(t, shelf{"a": {disk: newDisk(512), info: everything(512)}}, ServerConfig{})
	w := plug(t, r, fixedClient)
	long := strings.Repeat("x", maxString+1)
	lying := goData("a")
	binary.BigEndian.PutUint32(lying, 1000)
	for _, test := range []struct {
		o    option
		data []byte
		want optionReply
	}{
		{optList, []byte{1}, repErrInvalid},
		{optStructuredReply, []byte{1}, repErrInvalid},
		{optExtendedHeaders, []byte{1}, repErrInvalid},
		{optStartTLS, nil, repErrUnsup},
		{option(4), nil, repErrUnsup},
		{option(99), []byte("whatever"), repErrUnsup},
		{optInfo, nil, repErrInvalid},
		{optInfo, lying, repErrInvalid},
		{optGo, append(goData("a"), 0), repErrInvalid},
		{optGo, goData(long), repErrInvalid},
		{optGo, goData("\xff"), repErrInvalid},
		{optGo, goData("b"), repErrUnknown},
		{optSetMetaContext, metaData("a", "base:allocation"), repErrInvalid}, // before structured replies
		{optStructuredReply, nil, repAck},
		{optSetMetaContext, metaData("b", "base:allocation"), repErrUnknown},
		{optSetMetaContext, metaData("a", "no colon"), repErrInvalid},
		{optSetMetaContext, metaData("a", "x-unknown:", "base:unknown"), repAck},
		{optGo, make([]byte, maxOptionData+1), repErrTooBig},
		{optExtendedHeaders, nil, repAck},
		{optStructuredReply, nil, repErrExtHeaderReqd},
		{optInfo, goData("a", infoName, 77), repAck},
	} {
		w.wantOption(test.o, test.data, test.want)
	}
	for _, test := range []struct {
		queries []string
		set     bool
		want    int
	}{
		{nil, false, 1}, {nil, true, 0}, {[]string{"base:"}, false, 1}, {[]string{"base:"}, true, 0}, {[]string{"base:allocation"}, true, 1},
	} {
		o := optListMetaContext
		if test.set {
			o = optSetMetaContext
		}
		if got := w.wantOption(o, metaData("a", test.queries...), repAck); len(got) != test.want {
			t.Errorf("option %d with %q: %d contexts instead of %d", o, test.queries, len(got), test.want)
		}
	}
	w.send(optionBytes(optExportName, []byte("a"))) // not possible with extended headers
	w.hungUp()
}

func TestHandshakeHangups(t *testing.T) {
	r := serve(t, shelf{"a": {disk: newDisk(512), info: everything(512)}}, ServerConfig{})
	plug(t, r, 1<<5).hungUp()
	for name, data := range map[string][]byte{
		"magic": make([]byte, 16), "unknown export": optionBytes(optExportName, []byte("b")),
		"huge option": append(optionBytes(optList, nil)[:12], 0xff, 0xff, 0xff, 0xff),
	} {
		t.Run(name, func(t *testing.T) {
			w := plug(t, r, fixedClient)
			w.send(data)
			w.hungUp()
		})
	}
	w := plug(t, r, 0)
	w.send(optionBytes(optGo, goData("a"))) // without fixed newstyle
	w.hungUp()
	w = plug(t, r, fixedClient)
	for range maxOptions {
		w.wantOption(option(99), nil, repErrUnsup)
	}
	w.hungUp()
	w = plug(t, r, fixedClient).enter("a")
	w.send(make([]byte, requestSize)) // request magic
	w.hungUp()
}

// TestExportNameOfAnOldClient has the padding that clients without NO_ZEROES expect.
func TestExportNameOfAnOldClient(t *testing.T) {
	r := serve(t, shelf{"a": {disk: newDisk(512), info: everything(512)}}, ServerConfig{})
	for flags, n := range map[uint32]int{0: 134, uint32(handshakeNoZeroes): 10} {
		w := plug(t, r, flags)
		w.send(optionBytes(optExportName, []byte("a")))
		if p := w.recv(n); binary.BigEndian.Uint64(p) != 512 {
			t.Errorf("size %x", p)
		}
		w.send(requestBytes(cmdRead, 0, 5, 0, 512))
		w.wantReply(5, 0)
		w.recv(512)
		w.send(requestBytes(cmdDisc, 0, 6, 0, 0))
		w.hungUp()
	}
}

func TestHandshakeTimeout(t *testing.T) {
	r := serve(t, shelf{}, ServerConfig{HandshakeTimeout: 30 * time.Millisecond})
	w := plug(t, r, fixedClient)
	w.send(optionBytes(optList, nil)[:10])
	w.hungUp()
}

func TestMaxConns(t *testing.T) {
	r := serve(t, shelf{"": {disk: newDisk(512), info: everything(512)}}, ServerConfig{MaxConns: 1})
	first := dial(t, r.uri(""), DialOptions{})
	if _, err := Dial(within(t), r.uri(""), DialOptions{}); err == nil {
		t.Error("a second connection")
	}
	if err := first.Flush(within(t)); err != nil {
		t.Error(err)
	}
	first.Close()
	eventually(t, "there is room again", func() bool {
		c, err := Dial(within(t), r.uri(""), DialOptions{})
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// TestShutdown answers what has been received, and only then ends.
func TestShutdown(t *testing.T) {
	for _, info := range []ExportInfo{everything(4096), concurrent(4096)} {
		g := newGate()
		d := newDisk(4096)
		d.onWrite = func(ctx context.Context, _ int64, _ int, _ CommandFlags) error { return g.pass(ctx) }
		r := one(t, d, info)
		idle := plug(t, r, fixedClient).enter("")
		haggling := plug(t, r, fixedClient)
		w := plug(t, r, fixedClient).enter("")
		w.send(append(requestBytes(cmdWrite, 0, 1, 0, 1, 7), requestBytes(cmdWrite, 0, 2, 1, 1, 8)...))
		<-g.entered
		done := make(chan error, 1)
		go func() { done <- r.Shutdown(within(t)) }()
		idle.hungUp()
		haggling.hungUp()
		close(g.open)
		got := []uint64{binary.BigEndian.Uint64(w.recv(16)[8:]), binary.BigEndian.Uint64(w.recv(16)[8:])}
		slices.Sort(got)
		if !slices.Equal(got, []uint64{1, 2}) {
			t.Errorf("replies to %v", got)
		}
		w.hungUp()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if d.closes() != 2 || d.data[0] != 7 || d.data[1] != 8 {
			t.Errorf("%d backends closed, disk %v", d.closes(), d.data[:2])
		}
		if err := r.ServeConn(within(t), idle.Conn); !errors.Is(err, ErrServerClosed) {
			t.Errorf("served after shutdown: %v", err)
		}
	}
}

// TestShutdownThatRunsOutOfTime cuts what is left.
func TestShutdownThatRunsOutOfTime(t *testing.T) {
	g := newGate()
	d := newDisk(4096)
	d.onWrite = func(ctx context.Context, _ int64, _ int, _ CommandFlags) error { return g.pass(ctx) }
	r := one(t, d, everything(4096))
	w := plug(t, r, fixedClient).enter("")
	w.send(requestBytes(cmdWrite, 0, 1, 0, 1, 7))
	<-g.entered
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("shutdown returned %v", err)
	}
	if d.closes() != 1 {
		t.Errorf("%d backends closed", d.closes())
	}
}

// TestServeEndsWithItsContext cuts connections, on several listeners and transports.
func TestServeEndsWithItsContext(t *testing.T) {
	d := newDisk(4096)
	s, err := NewServer(shelf{"": {disk: d, info: everything(4096)}}, ServerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	enough := errors.New("enough")
	done := make(chan error, 2)
	var clients []*Client
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() { done <- s.Serve(ctx, l) }()
		clients = append(clients, dial(t, "nbd://"+l.Addr().String(), DialOptions{}))
	}
	cancel(enough)
	for range 2 {
		if err := <-done; !errors.Is(err, enough) {
			t.Errorf("Serve returned %v", err)
		}
	}
	for _, c := range clients {
		<-c.Done()
	}
	if d.closes() != 2 {
		t.Errorf("%d of 2 backends closed", d.closes())
	}
}

// TestPipe serves a connection that knows neither descriptors nor writev.
func TestPipe(t *testing.T) {
	d := newDisk(2 << 20)
	s, err := NewServer(shelf{"": {disk: d, info: concurrent(2 << 20)}}, ServerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	a, b := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- s.ServeConn(context.Background(), a) }()
	c, err := NewClient(within(t), b, DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p, got := pattern(1<<20, 5), make([]byte, 1<<20)
	if err := errors.Join(c.WriteAt(within(t), p, 99, 0), c.ReadAt(within(t), got, 99), c.Close()); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, got, p)
	if err := <-done; err != nil {
		t.Errorf("an orderly end is reported as %v", err)
	}
}

func TestInvalidConfigurations(t *testing.T) {
	for _, cfg := range []ServerConfig{{RequireTLS: true}, {HandshakeTimeout: -1}, {MemoryBudget: -1}, {MaxConns: -1}} {
		if _, err := NewServer(shelf{}, cfg); err == nil {
			t.Errorf("accepted %+v", cfg)
		}
	}
	for _, info := range []ExportInfo{{Size: -1}, {MinBlock: 3}, {MinBlock: 1 << 17}, {PreferredBlock: 100}, {PreferredBlock: 8192, MaxBlock: 4096}, {MaxBlock: 8192, MaxWrite: 4096}} {
		d := newDisk(1)
		if _, err := Dial(within(t), one(t, d, info).uri(""), DialOptions{}); !errors.Is(err, ErrUnknownExport) || d.closes() != 1 {
			t.Errorf("export %+v: %v, closed %d times", info, err, d.closes())
		}
	}
}

// TestWriteAboveTheMaximumBlock comes in pieces that the backend can take, in bounded memory, and has one reply.
func TestWriteAboveTheMaximumBlock(t *testing.T) {
	const n = 5 << 20
	for _, budget := range []int64{0, 1} { // with a big buffer, and without
		for _, info := range []ExportInfo{everything(n), concurrent(n)} {
			info.MinBlock, info.MaxBlock = 512, 1<<20
			d := newDisk(n)
			var used atomic.Int64
			var broken atomic.Bool
			r := serve(t, shelf{"": {disk: d, info: info}}, ServerConfig{MemoryBudget: budget})
			d.onWrite = func(_ context.Context, off int64, n int, f CommandFlags) error {
				used.Store(max(used.Load(), r.budget.used.Load()))
				if n > bigBuffer || n%512 != 0 || off%512 != 0 || f != FlagFUA {
					t.Errorf("piece of %d bytes at %d with flags %d", n, off, f)
				}
				if broken.Load() && off > 3<<20 {
					return ENOSPC
				}
				return nil
			}
			w := plug(t, r, fixedClient).enter("")
			want := pattern(n, 5)
			w.send(append(requestBytes(cmdWrite, FlagFUA, 1, 0, n), want...))
			w.wantReply(1, 0)
			broken.Store(true)
			w.send(append(requestBytes(cmdWrite, FlagFUA, 2, 0, n), want...))
			w.wantReply(2, ENOSPC)
			w.send(requestBytes(cmdFlush, 0, 3, 0, 0))
			w.wantReply(3, 0)
			d.mu.Lock()
			wantBytes(t, d.data, want)
			d.mu.Unlock()
			if got := used.Load(); got > 2*bigBuffer {
				t.Errorf("%d bytes of memory", got)
			}
		}
	}
}

// TestOversizedWriteIsSkipped, though it is larger than any buffer.
func TestOversizedWriteIsSkipped(t *testing.T) {
	info := everything(64 << 20)
	info.MaxBlock = 4096
	w := plug(t, one(t, newDisk(64<<20), info), fixedClient).enter("")
	const n = 40 << 20
	w.send(requestBytes(cmdWrite, 0, 1, 0, n))
	w.send(make([]byte, n))
	w.wantReply(1, EINVAL)
	w.send(requestBytes(cmdFlush, 0, 2, 0, 0))
	w.wantReply(2, 0)
}

// TestExportsThatHang cost no more than the handshake's time.
func TestExportsThatHang(t *testing.T) {
	r := serve(t, hanging{}, ServerConfig{HandshakeTimeout: 30 * time.Millisecond})
	if _, err := Dial(within(t), r.uri(""), DialOptions{}); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial: %v", err)
	}
}

type hanging struct{ shelf }

func (hanging) Open(ctx context.Context, _ string, _ ConnInfo) (Backend, ExportInfo, error) {
	<-ctx.Done()
	return nil, ExportInfo{}, ctx.Err()
}
