package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pipe is one end of a pipe. Reads take turns, and so do writes.
type pipe struct {
	st      *stream
	name    string
	welcome sync.Once

	closing sync.Once
	closed  chan struct{}

	read struct {
		sync.Mutex
		have  []byte // the rest of what was taken from the stream
		spare []byte // in exchange for the next
		freed int64  // bytes read and not granted again
	}
	write struct {
		sync.Mutex
		pack packer
	}
	readBy, writeBy deadline
}

func newPipe(st *stream, name string) *pipe {
	return &pipe{st: st, name: name, closed: make(chan struct{})}
}

// Read is io.EOF when the peer has closed the pipe in order and all was read.
func (p *pipe) Read(b []byte) (int, error) {
	p.read.Lock()
	defer p.read.Unlock()
	p.letIn()
	if err := p.given(p.readBy.over()); err != nil || len(b) == 0 {
		return 0, p.fault("read", err)
	}
	r := &p.read
	if len(r.have) == 0 {
		err := p.st.wait(p.readBy.over(), p.st.came, func() bool {
			if len(p.st.in) == 0 {
				return false
			}
			r.have, p.st.in = p.st.in, r.spare[:0]
			r.spare = r.have
			return true
		})
		if err != nil {
			return 0, p.fault("read", err)
		}
	}
	n := copy(b, r.have)
	r.have = r.have[n:]
	if r.freed += int64(n); r.freed >= pipeWindow/4 {
		p.st.tell(func() { p.st.due.grant += r.freed })
		r.freed = 0
	}
	return n, nil
}

// Write returns when all of b is copied and as much as possible has had its turn.
func (p *pipe) Write(b []byte) (n int, err error) {
	p.write.Lock()
	defer p.write.Unlock()
	p.letIn()
	if err := p.given(p.writeBy.over()); err != nil {
		return 0, p.fault("write", err)
	}
	for n < len(b) {
		k, err := p.st.send(p.writeBy.over(), &p.write.pack, b[n:min(len(b), n+maxPiece)])
		if n += k; err != nil {
			return n, p.fault("write", err)
		}
	}
	return n, nil
}

// given tells whether the pipe is closed here or the deadline has passed.
func (p *pipe) given(over <-chan struct{}) error {
	select {
	case <-p.closed:
		return net.ErrClosed
	default:
	}
	select {
	case <-over:
		return errGivenUp
	default:
		return nil
	}
}

// fault is the error of an operation as a net.Conn gives it.
func (p *pipe) fault(op string, err error) error {
	var peer *PeerError
	switch done := errors.As(err, &peer) && peer.Code == codeDone; {
	case err == nil:
		return nil
	case p.given(nil) != nil:
		err = net.ErrClosed
	case errors.Is(err, errGivenUp):
		err = os.ErrDeadlineExceeded
	case done && op == "read":
		return io.EOF
	case done:
		err = io.ErrClosedPipe
	}
	return &net.OpError{Op: op, Net: "relay", Addr: p.RemoteAddr(), Err: err}
}

// Close ends the pipe and all calls to it. A pipe that the peer has opened is
// over for the peer only when its handler returns, which may still say why.
func (p *pipe) Close() error {
	p.closing.Do(func() {
		close(p.closed)
		if p.st.ours {
			p.st.finish(nil)
		} else {
			p.st.hangUp()
		}
		p.readBy.set(time.Time{})
		p.writeBy.set(time.Time{})
	})
	return nil
}

func (p *pipe) SetReadDeadline(t time.Time) error  { return p.move(t, &p.readBy) }
func (p *pipe) SetWriteDeadline(t time.Time) error { return p.move(t, &p.writeBy) }
func (p *pipe) SetDeadline(t time.Time) error      { return p.move(t, &p.readBy, &p.writeBy) }

func (p *pipe) move(t time.Time, which ...*deadline) error {
	if err := p.given(nil); err != nil {
		return p.fault("set", err)
	}
	for _, d := range which {
		d.set(t)
	}
	return nil
}

// pipeAddr is the name of a pipe and of who is at its other end.
type pipeAddr struct{ peer, name string }

func (pipeAddr) Network() string  { return "relay" }
func (a pipeAddr) String() string { return a.peer + "/" + a.name }

func (p *pipe) LocalAddr() net.Addr  { return pipeAddr{"", p.name} }
func (p *pipe) RemoteAddr() net.Addr { return pipeAddr{p.st.c.cfg.Peer, p.name} }
