package relay

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/rephub/rephub/internal/giveway"
)

// gulp is what a peer must take within the time of silence.
const gulp = 64 << 10

// write sends what there is to send, and a ping when there was nothing.
func (c *Conn) write() error {
	if err := c.send(appendFrame(nil, typePreface, 0, preface())); err != nil {
		return err
	}
	ping := time.NewTimer(c.cfg.Ping)
	defer ping.Stop()
	held := time.NewTimer(0)
	defer held.Stop()
	var buf []byte
	for {
		var data *stream
		wait := c.limit.ReserveN(time.Now(), 0).Delay() // the limit holds data back so long
		buf, data = c.next(buf[:0], wait <= 0)
		var err error
		switch {
		case len(buf) > 0:
			err = c.send(buf)
		case data != nil:
			err = c.send(data.out)
			c.limit.ReserveN(time.Now(), len(data.out))
			c.sent(data)
		default:
			var timer <-chan time.Time
			if wait > 0 {
				held.Reset(wait)
				timer = held.C
			}
			select {
			case <-c.done:
				return ErrClosed
			case <-c.wake: // perhaps the limit was changed
				continue
			case <-timer:
				continue
			case <-ping.C:
				err = c.send(appendFrame(buf[:0], typePing, 0, nil))
			}
		}
		if err != nil {
			return err
		}
		ping.Reset(c.cfg.Ping)
	}
}

// send writes p; the peer must take each gulp in time.
func (c *Conn) send(p []byte) error {
	for len(p) > 0 {
		if err := c.nc.SetWriteDeadline(time.Now().Add(c.cfg.Silence)); err != nil {
			return fmt.Errorf("write to peer: %w", err)
		}
		n, err := c.nc.Write(p[:min(len(p), gulp)])
		giveway.Yield()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("%w: it took nothing for %s", ErrSilent, c.cfg.Silence)
		}
		if err != nil {
			return fmt.Errorf("write to peer: %w", err)
		}
		p = p[n:]
	}
	return nil
}

// next appends the frames that go before all data; if there are none, it takes
// a stream whose turn it is, if one may be taken.
func (c *Conn) next(buf []byte, data bool) ([]byte, *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if buf = c.collectLocked(buf); len(buf) > 0 || !data {
		return buf, nil
	}
	return buf, c.turnLocked()
}

// collectLocked collects about 64 KiB.
func (c *Conn) collectLocked(buf []byte) []byte {
	for len(buf) < gulp && len(c.mu.queue) > 0 {
		buf = append(buf, c.mu.queue[0]...)
		c.mu.queue[0] = nil
		c.mu.queue = c.mu.queue[1:]
	}
	for len(buf) < gulp && len(c.mu.due) > 0 {
		st := c.mu.due[0]
		c.mu.due = c.mu.due[1:]
		buf = st.collectLocked(buf)
	}
	return buf
}
