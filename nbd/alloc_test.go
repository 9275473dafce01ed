package nbd

import (
	"bytes"
	"context"
	"io"
	"net"
	"runtime"
	"testing"
	"time"
)

// tape is a connection whose peer says a beginning once and a request many times, and does not listen.
type tape struct {
	net.Conn // nothing else of it is called
	begin    []byte
	loop     []byte
	times    int
	pos      int
}

func (c *tape) Read(p []byte) (int, error) {
	n := copy(p, c.begin)
	if c.begin = c.begin[n:]; n > 0 {
		return n, nil
	}
	for n < len(p) && c.times > 0 {
		m := copy(p[n:], c.loop[c.pos:])
		n += m
		if c.pos += m; c.pos == len(c.loop) {
			c.pos = 0
			c.times--
		}
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (c *tape) Write(p []byte) (int, error)      { return len(p), nil }
func (c *tape) Close() error                     { return nil }
func (c *tape) SetDeadline(time.Time) error      { return nil }
func (c *tape) SetReadDeadline(time.Time) error  { return nil }
func (c *tape) SetWriteDeadline(time.Time) error { return nil }
func (c *tape) RemoteAddr() net.Addr             { return &net.UnixAddr{} }

// TestHotPathDoesNotAllocate: reads and writes cost no memory each.
func TestHotPathDoesNotAllocate(t *testing.T) {
	const times = 20000
	pair := append(requestBytes(cmdWrite, 0, 1, 4096, 4096, make([]byte, 4096)...), requestBytes(cmdRead, 0, 2, 0, 4096)...)
	for _, info := range []ExportInfo{everything(1 << 20), concurrent(1 << 20)} {
		d := newDisk(1 << 20)
		s, err := NewServer(shelf{"": {disk: d, info: info}}, ServerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		flags := []byte{0, 0, 0, byte(fixedClient)}
		c := &tape{begin: bytes.Join([][]byte{flags, optionBytes(optGo, goData(""))}, nil), loop: pair, times: times}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if err := s.ServeConn(context.Background(), c); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		s.Close()
		if n := after.Mallocs - before.Mallocs; n >= times { // one for each write, or each read
			t.Errorf("%d allocations for %d requests", n, 2*times)
		}
	}
}

// BenchmarkRequests measures a 4 KiB write and a 4 KiB read without a kernel in between.
func BenchmarkRequests(b *testing.B) {
	pair := append(requestBytes(cmdWrite, 0, 1, 4096, 4096, make([]byte, 4096)...), requestBytes(cmdRead, 0, 2, 0, 4096)...)
	info := everything(1 << 20)
	info.Concurrent = true
	s, err := NewServer(shelf{"": {disk: nullDisk{}, info: info}}, ServerConfig{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	b.ReportAllocs()
	flags := []byte{0, 0, 0, byte(fixedClient)}
	s.ServeConn(context.Background(), &tape{begin: append(flags, optionBytes(optGo, goData(""))...), loop: pair, times: b.N})
}
