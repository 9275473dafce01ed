package nbd

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// send writes one request. When ctx ends in the middle, the rest is sent in the background from a copy, so that the caller has
// its payload back and the stream stays whole.
func (c *Client) send(ctx context.Context, k *call, payload []byte) error {
	select {
	case c.writing <- struct{}{}:
	case <-ctx.Done():
		c.finish(k)
		return context.Cause(ctx)
	case <-c.dead:
		c.finish(k)
		return c.Err()
	}
	if err := c.register(k); err != nil {
		<-c.writing
		c.finish(k)
		return err
	}
	c.scratch = c.appendHeader(c.scratch[:0], k)
	if len(payload) <= coalesceUpTo {
		c.scratch = append(c.scratch, payload...)
		payload = nil
	}
	n, err := c.write(ctx, c.scratch, payload)
	switch total := len(c.scratch) + len(payload); {
	case err == nil:
		<-c.writing
		return nil
	case ctx.Err() == nil || !errors.Is(err, os.ErrDeadlineExceeded):
		c.fail(fmt.Errorf("send request: %w", err))
		<-c.writing
		return c.Err()
	case n == 0 && !c.overTLS():
		<-c.writing
		c.finish(k)
	case c.overTLS(): // crypto/tls cannot go on after a write that timed out
		c.fail(fmt.Errorf("send request: %w", err))
		<-c.writing
	default:
		c.goSendRest(bytes.Join([][]byte{c.scratch, payload}, nil)[n:total])
	}
	return context.Cause(ctx)
}

// goSendRest runs sendRest in the background, unless the connection is dead: then Close may already wait for what runs.
func (c *Client) goSendRest(rest []byte) {
	c.flights.Lock()
	defer c.flights.Unlock()
	if c.flights.err != nil {
		<-c.writing
		return
	}
	c.done.Go(func() { c.sendRest(rest) })
}

func (c *Client) overTLS() bool {
	_, ok := c.conn.(*tls.Conn)
	return ok
}

// sendRest completes an abandoned request and passes the right to send on.
func (c *Client) sendRest(rest []byte) {
	if _, err := c.conn.Write(rest); err != nil {
		c.fail(fmt.Errorf("send request: %w", err))
	}
	<-c.writing
}

// write sends two pieces until ctx ends, which shows as os.ErrDeadlineExceeded. It returns the number of bytes sent.
func (c *Client) write(ctx context.Context, a, b []byte) (int, error) {
	var fired chan struct{}
	var stop func() bool
	if ctx.Done() != nil {
		fired = make(chan struct{})
		stop = context.AfterFunc(ctx, func() {
			c.conn.SetWriteDeadline(aLongTimeAgo)
			close(fired)
		})
	}
	var n int64
	var err error
	if len(b) == 0 {
		var m int
		m, err = c.conn.Write(a)
		n = int64(m)
	} else {
		n, err = (&net.Buffers{a, b}).WriteTo(c.conn)
	}
	if stop != nil && !stop() {
		<-fired
		c.conn.SetWriteDeadline(time.Time{})
	}
	return int(n), err
}
