package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// TestChunksInAnyOrder are put together.
func TestChunksInAnyOrder(t *testing.T) {
	for _, noExt := range []bool{true, false} {
		c := scripted(t, DialOptions{NoExtendedHeaders: noExt}, func(s *script) {
			r := s.request()
			s.chunk(r, chunkHole, 0, hole(r.off+4, 2)...)
			s.chunk(r, chunkData, 0, at(r.off+6, 7, 8)...)
			s.chunk(r, chunkData, 0, at(r.off, 1, 2)...)
			s.chunk(r, chunkData, 0, at(r.off+2, 3, 4)...)
			s.chunk(r, chunkNone, chunkDone)
			s.request()
		})
		got := bytes.Repeat([]byte{9}, 8)
		if err := c.ReadAt(within(t), got, 100); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, got, []byte{1, 2, 3, 4, 0, 0, 7, 8})
	}
}

// TestErrorChunks are errors of the request, and the connection goes on.
func TestErrorChunks(t *testing.T) {
	c := scripted(t, DialOptions{NoExtendedHeaders: true}, func(s *script) {
		r := s.request()
		s.chunk(r, chunkError, 0, errorPayload(uint32(ENOSPC), "no room")...)
		s.chunk(r, chunkData, chunkDone, at(0, 1)...) // content after an error
		r = s.request()
		s.chunk(r, chunkErrorOffset, chunkDone, append(errorPayload(uint32(EIO), ""), at(5)...)...)
		r = s.request()
		s.chunk(r, 1<<15|99, chunkDone, errorPayload(4711, "new")...)
		s.request()
	})
	for _, want := range []Errno{ENOSPC, EIO, EINVAL} {
		err := c.ReadAt(within(t), make([]byte, 10), 0)
		var re *RequestError
		if !errors.As(err, &re) || !errors.Is(err, want) || want == ENOSPC && re.Message != "no room" {
			t.Errorf("read failed with %v instead of %v", err, want)
		}
	}
}

// TestHostileReplies break the connection, for all requests and for good, and nothing worse.
func TestHostileReplies(t *testing.T) {
	tests := map[string]func(*script, request){
		"cookie":           func(s *script, r request) { r.cookie += 9; s.chunk(r, chunkNone, chunkDone) },
		"magic":            func(s *script, r request) { s.Write(make([]byte, 32)) },
		"before the range": func(s *script, r request) { s.chunk(r, chunkData, 0, at(r.off-1, 1)...) },
		"beyond the range": func(s *script, r request) { s.chunk(r, chunkData, 0, at(r.off+7, 1, 2)...) },
		"far offset":       func(s *script, r request) { s.chunk(r, chunkData, 0, at(1<<64-1, 1, 2)...) },
		"overlap": func(s *script, r request) {
			s.chunk(r, chunkData, 0, at(r.off, 1, 2)...)
			s.chunk(r, chunkHole, 0, hole(r.off+1, 1)...)
		},
		"twice": func(s *script, r request) {
			s.chunk(r, chunkHole, 0, hole(r.off, 8)...)
			s.chunk(r, chunkHole, 0, hole(r.off, 8)...)
		},
		"empty data":        func(s *script, r request) { s.chunk(r, chunkData, 0, at(r.off)...) },
		"empty hole":        func(s *script, r request) { s.chunk(r, chunkHole, 0, hole(r.off, 0)...) },
		"long hole":         func(s *script, r request) { s.chunk(r, chunkHole, 0, hole(r.off, 1<<31)...) },
		"hole of odd size":  func(s *script, r request) { s.chunk(r, chunkHole, 0, 1, 2, 3) },
		"none with payload": func(s *script, r request) { s.chunk(r, chunkNone, chunkDone, 1) },
		"none in between":   func(s *script, r request) { s.chunk(r, chunkNone, 0) },
		"not all data":      func(s *script, r request) { s.chunk(r, chunkData, chunkDone, at(r.off, 1, 2)...) },
		"unknown type":      func(s *script, r request) { s.chunk(r, 77, chunkDone) },
		"status of a read":  func(s *script, r request) { s.chunk(r, chunkBlockStatus, chunkDone, status(7, 512, 0)...) },
		"short error":       func(s *script, r request) { s.chunk(r, chunkError, chunkDone, 0, 0, 0, 5) },
		"no error":          func(s *script, r request) { s.chunk(r, chunkError, chunkDone, errorPayload(0, "")...) },
		"lying message":     func(s *script, r request) { s.chunk(r, chunkError, chunkDone, 0, 0, 0, 5, 0, 9, 'x') },
		"huge error":        func(s *script, r request) { s.chunk(r, chunkError, chunkDone, make([]byte, 1<<20)...) },
		"error elsewhere": func(s *script, r request) {
			s.chunk(r, chunkErrorOffset, chunkDone, append(errorPayload(5, ""), at(1<<40)...)...)
		},
		"hang-up": func(s *script, r request) { s.Close() },
		"torn":    func(s *script, r request) { s.Write([]byte{0x66, 0x8e}); s.Close() },
		"simple reply to a read": func(s *script, r request) {
			s.Write(binary.BigEndian.AppendUint64(status(magicSimple, 0), r.cookie))
		},
		"extended chunk in a structured session": func(s *script, r request) { s.extended = !s.extended; s.chunk(r, chunkNone, chunkDone) },
	}
	for name, play := range tests {
		for _, noExt := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, extended %t", name, !noExt), func(t *testing.T) {
				c := scripted(t, DialOptions{NoExtendedHeaders: noExt}, func(s *script) { play(s, s.request()) })
				err := c.ReadAt(within(t), make([]byte, 8), 64)
				if !errors.As(err, new(*ConnError)) {
					t.Fatalf("read: %v", err)
				}
				<-c.Done()
				if err := c.Flush(within(t)); !errors.As(err, new(*ConnError)) {
					t.Errorf("flush: %v", err)
				}
			})
		}
	}
}

// TestHostileStatus is TestHostileReplies for block status.
func TestHostileStatus(t *testing.T) {
	for name, payload := range map[string][]byte{
		"context": status(8, 512, 0), "no extent": status(7), "torn extent": status(7, 512), "empty extent": status(7, 0, 0),
		"extent behind the end": status(7, 4096, 0, 512, 1),
	} {
		t.Run(name, func(t *testing.T) {
			c := scripted(t, DialOptions{NoExtendedHeaders: true, Contexts: []string{ContextAllocation}}, func(s *script) {
				s.chunk(s.request(), chunkBlockStatus, chunkDone, payload...)
			})
			if _, err := c.BlockStatus(within(t), ContextAllocation, 0, 4096); !errors.As(err, new(*ConnError)) {
				t.Fatalf("block status: %v", err)
			}
		})
	}
	c := scripted(t, DialOptions{NoExtendedHeaders: true, Contexts: []string{ContextAllocation}}, func(s *script) {
		r := s.request()
		s.chunk(r, chunkBlockStatus, 0, status(7, 512, 0)...)
		s.chunk(r, chunkBlockStatus, chunkDone, status(7, 512, 0)...)
	})
	if _, err := c.BlockStatus(within(t), ContextAllocation, 0, 4096); !errors.As(err, new(*ConnError)) {
		t.Fatalf("repeated block status: %v", err)
	}
}

// TestCancelledReadLeavesItsBufferAlone, though the reply comes later, and the connection goes on.
func TestCancelledReadLeavesItsBufferAlone(t *testing.T) {
	half, cancelled := make(chan struct{}), make(chan struct{})
	c := scripted(t, DialOptions{NoExtendedHeaders: true, MaxInFlight: 1}, func(s *script) {
		r := s.request()
		s.chunk(r, chunkData, 0, at(0, bytes.Repeat([]byte{1}, 512)...)...)
		close(half)
		<-cancelled
		s.chunk(r, chunkData, chunkDone, at(512, bytes.Repeat([]byte{1}, 512)...)...)
		r = s.request()
		s.chunk(r, chunkHole, chunkDone, hole(0, 2)...)
		s.request()
	})
	ctx, cancel := context.WithCancel(context.Background())
	buf := make([]byte, 1024)
	read := make(chan error, 1)
	go func() { read <- c.ReadAt(ctx, buf, 0) }()
	<-half
	cancel()
	if err := <-read; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for i := range buf { // ours again: the race detector sees anybody else
		buf[i] = 5
	}
	close(cancelled)
	small := []byte{9, 9}
	if err := c.ReadAt(within(t), small, 0); err != nil { // waits for the late reply, as only one request may be in flight
		t.Fatal(err)
	}
	wantBytes(t, small, []byte{0, 0})
	wantBytes(t, buf, bytes.Repeat([]byte{5}, 1024))
}

// TestCancelledLongReadLeavesItsBufferAlone: the payload was on its way past the input buffer, and stopped in the middle of a chunk.
func TestCancelledLongReadLeavesItsBufferAlone(t *testing.T) {
	const n = 512 << 10
	data := bytes.Repeat([]byte{1}, n)
	half, cancelled := make(chan struct{}), make(chan struct{})
	c := scripted(t, DialOptions{NoExtendedHeaders: true, MaxInFlight: 1}, func(s *script) {
		for range 3 {
			r := s.request()
			frame := s.chunkBytes(r, chunkData, chunkDone, at(0, data...)...)
			s.Write(frame[:n/2])
			half <- struct{}{}
			<-cancelled
			s.Write(frame[n/2:])
			s.chunk(s.request(), chunkData, chunkDone, at(7, data...)...)
		}
		s.request()
	})
	for range 3 {
		ctx, cancel := context.WithCancel(context.Background())
		buf := make([]byte, n)
		read := make(chan error, 1)
		go func() { read <- c.ReadAt(ctx, buf, 0) }()
		<-half
		cancel()
		if err := <-read; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		for i := range buf { // ours again: the race detector sees anybody else
			buf[i] = 5
		}
		cancelled <- struct{}{}
		next := make([]byte, n)
		if err := c.ReadAt(within(t), next, 7); err != nil { // waits for the late reply, as only one request may be in flight
			t.Fatal(err)
		}
		wantBytes(t, next, data)
		wantBytes(t, buf, bytes.Repeat([]byte{5}, n))
	}
}

// TestCancelledWriteIsSentToItsEnd, from a copy, so that the next request is understood.
func TestCancelledWriteIsSentToItsEnd(t *testing.T) {
	started, goOn := make(chan struct{}), make(chan struct{})
	p := pattern(1<<20, 1)
	c := scripted(t, DialOptions{NoExtendedHeaders: true}, func(s *script) {
		r := s.request()
		s.recv(100)
		close(started)
		<-goOn
		got := s.recv(1<<20 - 100)
		if !bytes.Equal(got, pattern(1<<20, 1)[100:]) {
			s.t.Error("the rest of the payload is not what was written")
		}
		s.chunk(r, chunkNone, chunkDone)
		s.chunk(s.request(), chunkNone, chunkDone)
		s.request()
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-started; cancel() }()
	if err := c.WriteAt(ctx, p, 0, 0); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	clear(p)
	hurried, cancel := context.WithCancel(context.Background())
	cancel()
	if err := c.Flush(hurried); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	close(goOn)
	if err := c.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
}

// TestHungServerCostsTheDeadlineOnly, for requests, for the handshake and for Close.
func TestHungServerCostsTheDeadlineOnly(t *testing.T) {
	soon := func() context.Context {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	c := scripted(t, DialOptions{MaxInFlight: 2}, func(*script) {})
	for range 5 { // more than may be in flight
		if err := c.ReadAt(soon(), make([]byte, 512), 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	defer a.Close()
	if _, err := NewClient(soon(), b, DialOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if _, err := b.Write([]byte{1}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the connection of a failed handshake is open: %v", err)
	}
}

// TestHostileHandshakes fail and do not hang or grow.
func TestHostileHandshakes(t *testing.T) {
	greeting := binary.BigEndian.AppendUint64(nil, magicInit)
	greeting = binary.BigEndian.AppendUint64(greeting, magicOption)
	greeting = binary.BigEndian.AppendUint16(greeting, handshakeFixedNewstyle)
	old := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, magicInit), 0x00420281861253)
	refuse := bytes.Join([][]byte{greeting, replyBytes(optExtendedHeaders, repErrUnsup, nil), replyBytes(optStructuredReply, repErrUnsup, nil)}, nil)
	info := binary.BigEndian.AppendUint64([]byte{0, 0}, 1<<63)
	for name, said := range map[string][]byte{
		"oldstyle": append(old, make([]byte, 200)...), "noise": make([]byte, 100), "nothing": nil, "torn": greeting[:10],
		"huge reply":      append(bytes.Clone(greeting), append(replyBytes(optExtendedHeaders, repAck, nil)[:16], 0xff, 0xff, 0xff, 0xff)...),
		"other option":    append(bytes.Clone(greeting), replyBytes(optList, repAck, nil)...),
		"info unasked":    append(bytes.Clone(greeting), replyBytes(optExtendedHeaders, repInfo, make([]byte, 12))...),
		"no information":  append(bytes.Clone(refuse), replyBytes(optGo, repAck, nil)...),
		"size":            append(bytes.Clone(refuse), replyBytes(optGo, repInfo, append(info, 0, 1))...),
		"block size":      append(bytes.Clone(refuse), replyBytes(optGo, repInfo, []byte{0, 3, 0, 0, 0, 3, 0, 0, 2, 0, 0, 1, 0, 0})...),
		"short info":      append(bytes.Clone(refuse), replyBytes(optGo, repInfo, []byte{0})...),
		"torn block size": append(bytes.Clone(refuse), replyBytes(optGo, repInfo, []byte{0, 3, 0})...),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := NewClient(within(t), playback(said), DialOptions{})
			if err == nil {
				c.Close()
				t.Fatal("accepted")
			}
		})
	}
}

// playback is a connection to a peer that says what it says, hears everything, and hangs up.
func playback(said []byte) net.Conn {
	a, b := net.Pipe()
	go io.Copy(io.Discard, a)
	go func() { a.Write(said); a.Close() }()
	return b
}

func TestClientRefusesByItself(t *testing.T) {
	info := ExportInfo{Size: 4096, ReadOnly: true}
	r := serve(t, shelf{"ro": {disk: newDisk(4096), info: info}, "rw": {disk: newDisk(4096), info: ExportInfo{Size: 4096}}}, ServerConfig{})
	ro, rw := dial(t, r.uri("ro"), DialOptions{}), dial(t, r.uri("rw"), DialOptions{})
	ctx := within(t)
	for i, test := range []struct{ err, want error }{
		{ro.WriteAt(ctx, []byte{1}, 0, 0), EPERM}, {ro.Zero(ctx, 0, 1, 0), EPERM}, {ro.Trim(ctx, 0, 1, 0), EPERM},
		{rw.WriteAt(ctx, []byte{1}, 0, FlagFUA), ErrNotOffered}, {rw.Zero(ctx, 0, 1, 0), ErrNotOffered}, {rw.Trim(ctx, 0, 1, 0), ErrNotOffered},
		{rw.Flush(ctx), ErrNotOffered}, {rw.Cache(ctx, 0, 1), ErrNotOffered},
		{rw.ReadAt(ctx, make([]byte, 2), 4095), EINVAL}, {rw.ReadAt(ctx, make([]byte, 2), -1), EINVAL}, {rw.WriteAt(ctx, []byte{1}, 1<<62, 0), EINVAL},
	} {
		if !errors.Is(test.err, test.want) {
			t.Errorf("case %d: %v instead of %v", i, test.err, test.want)
		}
	}
}

// TestSplitting keeps to a server's maximum and minimum block.
func TestSplitting(t *testing.T) {
	info := everything(1 << 20)
	info.MinBlock, info.MaxBlock = 512, 8192+100
	d := newDisk(1 << 20)
	var sizes []int
	d.onWrite = func(_ context.Context, _ int64, n int, _ CommandFlags) error { sizes = append(sizes, n); return nil }
	c := dial(t, one(t, d, info).uri(""), DialOptions{})
	p, got := pattern(20480, 4), make([]byte, 20480)
	if err := errors.Join(c.WriteAt(within(t), p, 512, 0), c.ReadAt(within(t), got, 512)); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, got, p)
	if fmt.Sprint(sizes) != "[8192 8192 4096]" {
		t.Errorf("pieces %v", sizes)
	}
}

func TestPool(t *testing.T) {
	info := everything(1 << 20)
	r := serve(t, shelf{"multi": {disk: newDisk(1 << 20), info: info}, "single": {disk: newDisk(512), info: ExportInfo{Size: 512}}}, ServerConfig{})
	single, err := DialPool(within(t), r.uri("single"), 4, DialOptions{})
	if err != nil || single.Len() != 1 {
		t.Fatalf("%d connections where one is allowed: %v", single.Len(), err)
	}
	defer single.Close()
	p, err := DialPool(within(t), r.uri("multi"), 3, DialOptions{Contexts: []string{ContextAllocation}})
	if err != nil || p.Len() != 3 || p.Info().Size != 1<<20 {
		t.Fatalf("%d connections: %v", p.Len(), err)
	}
	defer p.Close()
	p.clients[0].fail(io.ErrUnexpectedEOF) // one is lost, the others do
	for i := range 10 {
		b, got := pattern(4096, byte(i)), make([]byte, 4096)
		_, err := p.BlockStatus(within(t), ContextAllocation, 0, 4096)
		if err := errors.Join(err, p.WriteAt(within(t), b, 0, 0), p.ReadAt(within(t), got, 0), p.Flush(within(t)),
			p.Zero(within(t), 0, 1, 0), p.Trim(within(t), 0, 1, 0), p.Cache(within(t), 0, 1)); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, got, b)
	}
	if err := errors.Join(p.Close(), p.Close()); err != nil {
		t.Error(err)
	}
	if err := p.Flush(within(t)); !errors.As(err, new(*ConnError)) {
		t.Errorf("flush after close: %v", err)
	}
}
