package relay

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/rephub/rephub/internal/giveway"
)

// patientReader gives the peer up when nothing came for too long.
type patientReader struct {
	nc       net.Conn
	patience time.Duration
}

func (r patientReader) Read(p []byte) (int, error) {
	if err := r.nc.SetReadDeadline(time.Now().Add(r.patience)); err != nil {
		return 0, fmt.Errorf("read from peer: %w", err)
	}
	n, err := r.nc.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w: nothing came for %s", ErrSilent, r.patience)
	}
	return n, err
}

// read takes what the peer sends. ctx is for what the peer begins here.
func (c *Conn) read(ctx context.Context) error {
	d := decoder{r: bufio.NewReaderSize(patientReader{c.nc, c.cfg.Silence}, 64<<10)}
	f, err := d.next()
	if err == nil {
		err = checkPreface(&f)
	}
	for err == nil {
		if f, err = d.next(); err == nil {
			giveway.Yield()
			err = c.take(ctx, &f)
			giveway.Yield()
		}
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("peer closed the connection: %w", err)
	}
	return err
}

// take acts on one frame. It waits for nobody.
func (c *Conn) take(ctx context.Context, f *frame) error {
	switch f.typ {
	case typePing:
		return nil
	case typeRequest:
		return c.takeRequest(ctx, f)
	case typeReply:
		return c.takeReply(f)
	case typeCancel:
		return c.takeCancel(f)
	case typeOpen:
		return c.takeOpen(ctx, f)
	case typePipe:
		return c.takePipe(ctx, f)
	case typePreface:
		return f.wrong("there has been one already")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.mu.streams[f.stream^theirs]
	if st == nil {
		return f.wrong("the stream is not open")
	}
	if st.theirClose {
		return f.wrong("the peer has closed the stream")
	}
	if !st.expects(f.typ) {
		return f.wrong("it goes the wrong way")
	}
	if st.ours && st.answered == nil && f.typ != typeAnswer && f.typ != typeClose {
		return f.wrong("the stream has not been answered")
	}
	return st.takeLocked(f)
}

// expects tells whether the peer may send frames of the type.
func (st *stream) expects(t frameType) bool {
	switch t {
	case typeClose:
		return true
	case typeData:
		return st.pipe || !st.ours
	case typeGrant:
		return st.pipe || st.ours
	case typeAnswer:
		return st.ours
	case typeAck, typeStall:
		return st.ours && !st.pipe
	}
	return false
}

// takeLocked acts on a frame of an open stream. It needs the lock of the Conn.
func (st *stream) takeLocked(f *frame) error {
	switch f.typ {
	case typeClose:
		var m closeMessage
		if err := decodeJSON(f, &m); err != nil {
			return err
		}
		st.theirClose = true
		st.endLocked(&PeerError{Code: clip(m.Code), Reason: clip(m.Reason)})
		st.forgetLocked()
	case typeData:
		return st.takeDataLocked(f)
	case typeAnswer:
		if st.answered != nil {
			return f.wrong("there has been one already")
		}
		var a answer
		if err := decodeJSON(f, &a); err != nil {
			return err
		}
		if a.Window < 1 || a.Window > maxWindow {
			return f.wrong("a window of %d bytes is not possible", a.Window)
		}
		st.answered, st.credit = &a, a.Window
		poke(st.kick)
	case typeGrant:
		n := binary.LittleEndian.Uint64(f.body)
		if n == 0 || n > maxWindow || st.credit+int64(n) > 2*maxWindow {
			return f.wrong("a grant of %d bytes is not possible", n)
		}
		st.credit += int64(n)
		poke(st.kick)
	case typeAck:
		a, err := decodeAck(f)
		if err != nil {
			return err
		}
		st.acked = a
		poke(st.came)
	case typeStall:
		var m stallMessage
		if err := decodeJSON(f, &m); err != nil {
			return err
		}
		st.stalled = clip(m.Reason)
		poke(st.came)
	}
	return nil
}

// takeDataLocked keeps the bytes until the session takes them.
func (st *stream) takeDataLocked(f *frame) error {
	n, err := dataSize(f)
	if err != nil {
		return err
	}
	if st.ended() {
		return nil // it was on its way when we closed the stream
	}
	if int64(n) > st.window {
		return f.wrong("%d bytes, the window has %d", n, st.window)
	}
	st.window -= int64(n)
	if st.in, err = appendData(st.in, f, n); err != nil {
		return err
	}
	poke(st.came)
	return nil
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
