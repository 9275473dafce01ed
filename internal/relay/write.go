package relay

import (
	"errors"
	"fmt"
	"os"
	"time"
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
	var notBefore time.Time // the limit holds data back until then
	var buf []byte
	for {
		var data *stream
		var wait time.Duration
		buf = c.collect(buf[:0])
		if len(buf) == 0 {
			if wait = time.Until(notBefore); wait <= 0 {
				data = c.turn()
			}
		}
		var err error
		switch {
		case len(buf) > 0:
			err = c.send(buf)
		case data != nil:
			err = c.send(data.out)
			if d := c.limit.ReserveN(time.Now(), len(data.out)).Delay(); d > 0 {
				notBefore = time.Now().Add(d)
			}
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
			case <-c.wake:
				// The limit may have been changed.
				if c.limit.Tokens() > 0 {
					notBefore = time.Time{}
				}
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

// collect appends the frames that go before all data, about 64 KiB of them.
func (c *Conn) collect(buf []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
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

// turn is the stream that may send a data frame now; each gets one before any
// gets another.
func (c *Conn) turn() *stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.mu.turns) > 0 {
		st := c.mu.turns[0]
		c.mu.turns = c.mu.turns[1:]
		if !st.ended() {
			return st
		}
	}
	return nil
}

// sent gives the stream its frame's buffer back.
func (c *Conn) sent(st *stream) {
	c.mu.Lock()
	st.free = append(st.free, st.out[:0])
	st.out = nil
	c.mu.Unlock()
	poke(st.kick)
}
