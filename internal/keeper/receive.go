package keeper

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// inbox puts lines and descriptors together. The kernel delivers descriptors in order, no later than the first byte of their line.
type inbox struct {
	buf []byte
	fds []int
}

// add takes over what was received.
func (in *inbox) add(p []byte, fds []int) error {
	in.buf = append(in.buf, p...)
	in.fds = append(in.fds, fds...)
	if len(in.buf) > maxMessage || len(in.fds) > 1024 {
		return errors.New("message from the keeper is too long")
	}
	return nil
}

// next returns the oldest whole message with its descriptors, false when there is none.
func (in *inbox) next() (reply, bool, error) {
	i := bytes.IndexByte(in.buf, '\n')
	if i < 0 {
		return reply{}, false, nil
	}
	var r reply
	if err := json.Unmarshal(in.buf[:i], &r.message); err != nil {
		return reply{}, false, fmt.Errorf("message from the keeper: %w", err)
	}
	if r.FDs < 0 || r.FDs > maxFDs || r.FDs > len(in.fds) {
		return reply{}, false, fmt.Errorf("message from the keeper says %d descriptors, there are %d", r.FDs, len(in.fds))
	}
	in.buf = append(in.buf[:0], in.buf[i+1:]...)
	r.fds = append(r.fds, in.fds[:r.FDs]...)
	in.fds = append(in.fds[:0], in.fds[r.FDs:]...)
	return r, true, nil
}

// receive reads until the connection ends, and then lets go of everything.
func (c *Client) receive(hello chan<- error) {
	var in inbox
	err := c.receiveAll(&in, hello)
	closeAll(in.fds)
	c.conn.Close()
	c.mu.Lock()
	if c.mu.err == nil {
		c.mu.err = fmt.Errorf("%w: %w", ErrGone, err)
	}
	err = c.mu.err
	for _, ch := range c.mu.pending {
		close(ch)
	}
	clear(c.mu.pending)
	for _, fd := range c.mu.taps {
		unix.Close(fd) // the last reference, if the keeper is dead
	}
	clear(c.mu.taps)
	rings := c.mu.rings
	c.mu.rings = nil
	c.mu.Unlock()
	for _, r := range rings {
		r.Wake()
	}
	select {
	case hello <- err:
	default:
	}
	close(c.done)
}

func (c *Client) receiveAll(in *inbox, hello chan<- error) error {
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*64))
	for {
		n, oobn, flags, _, err := c.conn.ReadMsgUnix(buf, oob)
		if err != nil {
			return err
		}
		fds, err := parseRights(oob[:oobn])
		if err != nil {
			return err
		}
		if err := in.add(buf[:n], fds); err != nil {
			return err
		}
		if flags&unix.MSG_CTRUNC != 0 {
			return errors.New("descriptors from the keeper were cut off")
		}
		if n == 0 {
			return errors.New("keeper closed it")
		}
		for {
			r, ok, err := in.next()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if err := c.handle(r, hello); err != nil {
				return err
			}
		}
	}
}

func parseRights(oob []byte) (fds []int, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("descriptors from the keeper: %w", err)
	}
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err == nil {
			fds = append(fds, got...)
		}
	}
	return fds, nil
}

// handle takes one message; it owns its descriptors.
func (c *Client) handle(r reply, hello chan<- error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.ID != 0 {
		ch := c.mu.pending[r.ID]
		delete(c.mu.pending, r.ID)
		if ch != nil {
			ch <- r
			return nil
		}
	}
	switch {
	case r.Event == eventTap && len(r.fds) == 1:
		c.mu.taps[r.Conn] = r.fds[0]
		return nil
	case r.Event == eventTapGone:
		if fd, ok := c.mu.taps[r.Conn]; ok {
			unix.Close(fd)
			delete(c.mu.taps, r.Conn)
		}
	case r.Event == eventReplaced:
		c.mu.err = ErrReplaced
	case r.Event == eventHello && r.Version != protocolVersion:
		return fmt.Errorf("keeper speaks version %d of its protocol, this program %d", r.Version, protocolVersion)
	case r.Event == eventHello:
		select {
		case hello <- nil:
		default:
		}
	}
	closeAll(r.fds)
	return nil
}
