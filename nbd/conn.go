package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// errDrained ends a connection's reading because of Shutdown.
var errDrained = errors.New("connection drained")

// errProtocol is the root of what a peer does against the protocol; the connection is cut.
var errProtocol = errors.New("protocol violation")

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(format, args...))
}

// aLongTimeAgo is a deadline that makes a blocked read return.
var aLongTimeAgo = time.Unix(1, 0)

// conn is one accepted connection: its two phases share the input, because a client may send its first request behind its last option.
type conn struct {
	srv    *Server
	raw    net.Conn // as accepted
	rw     net.Conn // raw, the TLS session over it, or in transmission the socket below it; changed only during the handshake
	in     *input
	cancel context.CancelCauseFunc

	draining atomic.Bool // Shutdown wants the connection to end
	shrink   atomic.Bool // the watchdog wants the buffers back
}

func newConn(s *Server, nc net.Conn, cancel context.CancelCauseFunc) *conn {
	return &conn{srv: s, raw: nc, rw: nc, in: newInput(), cancel: cancel}
}

// serve runs both phases.
func (c *conn) serve(ctx context.Context) error {
	if t, ok := c.raw.(*net.TCPConn); ok {
		t.SetNoDelay(true)
	}
	if err := c.raw.SetDeadline(time.Now().Add(c.srv.cfg.HandshakeTimeout)); err != nil {
		return fmt.Errorf("set handshake deadline: %w", err)
	}
	h := &handshake{conn: c}
	limited, cancel := context.WithTimeout(ctx, c.srv.cfg.HandshakeTimeout) // for Exports
	sess, err := h.run(limited)
	cancel()
	if sess == nil {
		c.in.release(c.srv.budget)
		return orderly(err)
	}
	err = c.raw.SetDeadline(time.Time{})
	if c.draining.Load() {
		c.raw.SetReadDeadline(aLongTimeAgo) // Shutdown's deadline was overwritten
	}
	if err == nil {
		err = sess.run(ctx)
	} else {
		c.in.release(c.srv.budget)
	}
	if cerr := sess.backend.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("close export %q: %w", sess.info.Name, cerr))
	}
	if t, ok := c.rw.(*tls.Conn); ok {
		t.SetWriteDeadline(time.Now().Add(time.Second)) // the close notification must not wait for a peer that does not read
		t.CloseWrite()
	}
	return orderly(err)
}

// orderly hides the errors that are ordinary ends of a connection.
func orderly(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, errDrained) {
		return nil
	}
	return err
}

// drain makes the connection end once the requests received are answered. Safe at any time from any goroutine.
func (c *conn) drain() {
	c.draining.Store(true)
	c.raw.SetReadDeadline(aLongTimeAgo)
}

// fill reads more input. It returns io.EOF only when nothing is buffered.
func (c *conn) fill() error {
	for {
		n, err := c.in.fill(c.rw)
		if n > 0 {
			return nil
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, os.ErrDeadlineExceeded) && c.draining.Load():
			return errDrained
		case errors.Is(err, io.EOF) && c.in.buffered() > 0:
			return io.ErrUnexpectedEOF
		}
		return err
	}
}

// read returns the next n bytes, which must fit the small buffer; valid until the next read.
func (c *conn) read(n int) ([]byte, error) {
	c.in.makeRoom(n, c.srv.budget)
	for c.in.buffered() < n {
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
	return c.in.next(n), nil
}
