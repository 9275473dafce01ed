package qmp

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
)

// call is a command that waits for its reply. inBand says that it holds a
// slot, which the reply gives back, not the caller: QEMU holds the command
// until then.
type call struct {
	reply  chan *message // buffered: the reader never waits
	inBand bool
}

// Execute runs a command and decodes what it returns into result, unless that
// is nil. args is marshalled as the command's arguments, unless it is nil.
//
// The error is an *Error when QEMU refused, ctx's when ctx ended first: then
// the command may have run, or may run later still.
func (c *Client) Execute(ctx context.Context, cmd string, args, result any) error {
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%s: not sent: %w", cmd, ctx.Err())
	case <-c.done:
		return fmt.Errorf("%s: %w", cmd, c.Err())
	}
	return c.run(ctx, request{Execute: cmd}, cmd, args, result)
}

// ExecuteOOB runs a command out of band: it overtakes all others, and QEMU
// answers it even when its main loop is stuck. Only commands that QEMU marks
// allow-oob can be run so (yank, migrate-pause, query-yank, …).
func (c *Client) ExecuteOOB(ctx context.Context, cmd string, args, result any) error {
	if !c.oob {
		return fmt.Errorf("%s: %w", cmd, ErrNoOOB)
	}
	return c.run(ctx, request{OOB: cmd}, cmd, args, result)
}

func (c *Client) run(ctx context.Context, r request, cmd string, args, result any) error {
	w := &call{reply: make(chan *message, 1), inBand: r.Execute != ""}
	r.ID = c.register(w)
	line, err := r.encode(args)
	if err != nil {
		c.forget(r.ID)
		return fmt.Errorf("%s: encode arguments: %w", cmd, err)
	}
	select {
	case c.out <- line:
	case <-ctx.Done():
		c.forget(r.ID)
		return fmt.Errorf("%s: not sent: %w", cmd, ctx.Err())
	case <-c.done:
		return fmt.Errorf("%s: %w", cmd, c.Err())
	}
	select {
	case m := <-w.reply:
		return decodeReply(cmd, m, result)
	case <-ctx.Done():
		return fmt.Errorf("%s: no reply yet: %w", cmd, ctx.Err())
	case <-c.done:
	}
	select { // the reply may have come just before the end
	case m := <-w.reply:
		return decodeReply(cmd, m, result)
	default:
		return fmt.Errorf("%s: %w", cmd, c.Err())
	}
}

func decodeReply(cmd string, m *message, result any) error {
	if m.Error != nil {
		return &Error{Command: cmd, Class: m.Error.Class, Desc: m.Error.Desc}
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("%s: decode reply: %w", cmd, err)
	}
	return nil
}

func (c *Client) register(w *call) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.lastID++
	c.mu.pending[c.mu.lastID] = w
	return c.mu.lastID
}

// take removes a call, giving its slot back.
func (c *Client) take(id uint64) *call {
	c.mu.Lock()
	w := c.mu.pending[id]
	delete(c.mu.pending, id)
	c.mu.Unlock()
	if w != nil && w.inBand {
		<-c.slots
	}
	return w
}

// forget drops a call that was never sent.
func (c *Client) forget(id uint64) { c.take(id) }

// writeLoop is the only writer, so that a caller that gives up never leaves
// half a message behind.
func (c *Client) writeLoop() {
	for {
		select {
		case line := <-c.out:
			if _, err := c.conn.Write(line); err != nil {
				c.end(fmt.Errorf("%w: write: %w", ErrConnectionLost, err))
				return
			}
		case <-c.done:
			return
		}
	}
}

// readLoop delivers replies and events, in the order in which they come.
func (c *Client) readLoop(dec *decoder) {
	defer func() { c.feed.End(c.Err()) }()
	for {
		m, err := dec.next()
		if err != nil {
			c.end(fmt.Errorf("%w: read: %w", ErrConnectionLost, err))
			return
		}
		switch {
		case m.Event != "":
			c.publish(m.event())
		case m.Return != nil || m.Error != nil:
			if id, err := strconv.ParseUint(string(bytes.TrimSpace(m.ID)), 10, 64); err == nil {
				if w := c.take(id); w != nil {
					w.reply <- m
				}
			}
		}
	}
}
