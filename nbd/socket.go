package nbd

import (
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// A client at depth 1 waits for each answer before it asks again, so on every request somebody has to be woken up on both
// sides; on a machine that halts its idle processors this takes longer than the rest of the request. A connection whose next
// bytes come soon therefore looks for them a while longer before it parks, as hypervisors do for a halted guest: the window
// grows while waits are shorter than maxPoll, and is closed by the first that is longer.
const (
	minPoll     = 10 * time.Microsecond  // the first window
	maxPoll     = 200 * time.Microsecond // the widest
	partialPoll = 20 * time.Microsecond  // the window while the rest of a request is due: clients send header and payload apart
)

// pollers bounds the connections of a server that poll at the same time to half of the processors.
type pollers struct {
	limit int32
	busy  atomic.Int32
}

func newPollers() *pollers { return &pollers{limit: int32(runtime.GOMAXPROCS(0) / 2)} }

func (p *pollers) take() bool {
	if p.busy.Add(1) > p.limit {
		p.busy.Add(-1)
		return false
	}
	return true
}

func (p *pollers) give() { p.busy.Add(-1) }

// socket reads and writes a plain connection with system calls that the scheduler is not told of, as none of them can block.
// Its methods belong to whoever has the lead (reads) or the write lock (writes).
type socket struct {
	net.Conn
	raw     syscall.RawConn
	pollers *pollers
	partial bool // the next read is for the rest of a request

	window time.Duration // how long to look for the next request
	in     transfer
	start  time.Time // of the wait in this read, zero before it
	out    transfer
}

// transfer is the buffer of one call and how it went.
type transfer struct {
	p    []byte
	n    int
	err  error
	call func(fd uintptr) (done bool)
}

// newSocket returns nil if c is not a socket that can be read past the runtime. A type that embeds a socket has its reasons, so
// it is used as it is.
func newSocket(c net.Conn, p *pollers) *socket {
	if !rawSupported {
		return nil
	}
	var raw syscall.RawConn
	var err error
	switch c := c.(type) {
	case *net.UnixConn:
		raw, err = c.SyscallConn()
	case *net.TCPConn:
		raw, err = c.SyscallConn()
	}
	if raw == nil || err != nil {
		return nil
	}
	s := &socket{Conn: c, raw: raw, pollers: p}
	s.in.call, s.out.call = s.tryRead, s.tryWrite
	return s
}

// Read is net.Conn's.
func (s *socket) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.in.p, s.in.n, s.in.err, s.start = p, 0, nil, time.Time{}
	err := s.raw.Read(s.in.call)
	s.in.p = nil
	if !s.start.IsZero() && !s.partial {
		s.learn(time.Since(s.start))
	}
	if err == nil {
		err = s.in.err
	}
	return s.in.n, s.opError("read", err)
}

// opError tells a failed call as net.Conn's own methods do.
func (s *socket) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if o, ok := err.(*net.OpError); ok { // of the RawConn: a deadline, or the connection is closed
		err = o.Err
	} else if errno, ok := err.(syscall.Errno); ok {
		err = os.NewSyscallError(op, errno)
	}
	o := &net.OpError{Op: op, Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: err}
	if o.Source != nil {
		o.Net = o.Source.Network()
	}
	return o
}

// learn adapts the window to a wait that it did not cover.
func (s *socket) learn(waited time.Duration) {
	switch {
	case waited > maxPoll:
		s.window = 0
	case waited > s.window:
		s.window = min(max(2*s.window, minPoll), maxPoll)
	}
}

// tryRead reports whether the read is over; if not, it is called again when the socket is readable.
func (s *socket) tryRead(fd uintptr) bool {
	if s.readNow(fd) {
		return true
	}
	if s.start.IsZero() {
		s.start = time.Now()
		return s.poll(fd)
	}
	return false
}

// poll looks for input until the window is over. Others that want the processor go first.
func (s *socket) poll(fd uintptr) bool {
	window := s.window
	if s.partial {
		window = partialPoll
	}
	if window == 0 || !s.pollers.take() {
		return false
	}
	defer s.pollers.give()
	for time.Since(s.start) < window {
		yieldProcessor()
		if s.readNow(fd) {
			return true
		}
	}
	return false
}

func (s *socket) readNow(fd uintptr) bool {
	n, err := rawRead(fd, s.in.p)
	if err == syscall.EAGAIN {
		return false
	}
	s.in.n, s.in.err = n, err
	return true
}

// Write is net.Conn's.
func (s *socket) Write(p []byte) (int, error) {
	s.out.p, s.out.n, s.out.err = p, 0, nil
	err := s.raw.Write(s.out.call)
	s.out.p = nil
	if err == nil {
		err = s.out.err
	}
	return s.out.n, s.opError("write", err)
}

func (s *socket) tryWrite(fd uintptr) bool {
	for s.out.n < len(s.out.p) {
		n, err := rawWrite(fd, s.out.p[s.out.n:])
		if err == syscall.EAGAIN {
			return false
		}
		if err != nil {
			s.out.err = err
			return true
		}
		s.out.n += n
	}
	return true
}
