package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// maxCalls bounds the calls in flight, each way.
const maxCalls = 32

// Handler answers a call of the peer's: params and result are JSON. ctx ends
// when the peer does not wait any more, or the connection ends. Up to 32 run at
// a time, each in its own goroutine; Run waits for them.
type Handler func(ctx context.Context, peer, method string, params json.RawMessage) (result any, err error)

// RemoteError is the error of the peer's handler. A handler that returns one
// chooses the code.
type RemoteError struct {
	Code    string
	Message string
}

func (e *RemoteError) Error() string { return fmt.Sprintf("peer: %s", e.Message) }

type request struct {
	ID     uint64          `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params,omitempty"`
}

type reply struct {
	ID     uint64          `json:"id"`
	Result json.RawMessage `json:"result,omitempty"`
	Code   string          `json:"code,omitempty"`
	Error  string          `json:"error,omitempty"`
}

type cancelMessage struct {
	ID uint64 `json:"id"`
}

// callTable is guarded by the lock of the Conn.
type callTable struct {
	last    uint64
	slots   chan struct{}         // one for each call of ours that the peer may still answer
	waiting map[uint64]chan reply // of ours
	serving map[uint64]context.CancelFunc
	err     error
}

func (t *callTable) init() {
	t.slots = make(chan struct{}, maxCalls)
	t.waiting = make(map[uint64]chan reply)
	t.serving = make(map[uint64]context.CancelFunc)
}

func (t *callTable) failLocked(err error) {
	t.err = err
	for _, ch := range t.waiting {
		close(ch)
	}
	clear(t.waiting)
}

// Call asks the peer and decodes its result into result, which may be nil. It
// waits while 32 calls are in flight. A *RemoteError is the handler's own; any
// other error leaves open whether the peer acted.
func (c *Conn) Call(ctx context.Context, method string, params, result any) error {
	p, err := json.Marshal(params)
	if err != nil {
		return fmt.Errorf("call %s: %w", method, err)
	}
	if len(p) > maxControl-1000 || len(method) > 100 {
		return fmt.Errorf("call %s: %d bytes of parameters are too many, or the name is too long", method, len(p))
	}
	select {
	case c.mu.calls.slots <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("call %s: %w", method, ctx.Err())
	case <-c.done:
		return fmt.Errorf("call %s: %w", method, c.Err())
	}
	c.mu.Lock()
	if err := c.mu.err; err != nil {
		c.mu.Unlock()
		return fmt.Errorf("call %s: %w", method, err)
	}
	t := &c.mu.calls
	t.last++
	id, ch := t.last, make(chan reply, 1)
	t.waiting[id] = ch
	c.queueLocked(typeRequest, request{ID: id, Method: method, Params: p})
	c.mu.Unlock()
	select {
	case r, ok := <-ch:
		switch {
		case !ok:
			return fmt.Errorf("call %s: %w", method, c.Err())
		case r.Error != "":
			return &RemoteError{Code: r.Code, Message: r.Error}
		case result == nil:
			return nil
		}
		if err := json.Unmarshal(r.Result, result); err != nil {
			return fmt.Errorf("call %s: decode result: %w", method, err)
		}
		return nil
	case <-ctx.Done():
		// The slot stays taken until the peer has answered.
		c.mu.Lock()
		if t.waiting[id] != nil {
			c.queueLocked(typeCancel, cancelMessage{id})
		}
		c.mu.Unlock()
		return fmt.Errorf("call %s: %w", method, ctx.Err())
	}
}

// queueLocked queues a frame of a call; the calls in flight bound the queue.
func (c *Conn) queueLocked(t frameType, v any) {
	if c.mu.err == nil {
		c.mu.queue = append(c.mu.queue, appendFrame(nil, t, 0, mustJSON(v)))
		c.poke()
	}
}

func (c *Conn) takeReply(f *frame) error {
	var r reply
	if err := decodeJSON(f, &r); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := c.mu.calls.waiting[r.ID]
	if ch == nil {
		return f.wrong("nobody waits for the reply to call %d", r.ID)
	}
	delete(c.mu.calls.waiting, r.ID)
	ch <- r
	<-c.mu.calls.slots
	return nil
}

func (c *Conn) takeRequest(ctx context.Context, f *frame) error {
	var r request
	if err := decodeJSON(f, &r); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &c.mu.calls
	// What was answered and not sent yet counts too: it is in memory.
	if len(t.serving)+len(c.mu.queue) >= 3*maxCalls || len(t.serving) >= maxCalls {
		return f.wrong("more than %d calls at a time", maxCalls)
	}
	if t.serving[r.ID] != nil {
		return f.wrong("call %d is being answered already", r.ID)
	}
	ctx, cancel := context.WithCancel(ctx)
	t.serving[r.ID] = cancel
	c.wg.Go(func() {
		out := c.answerCall(ctx, &r)
		c.mu.Lock()
		defer c.mu.Unlock()
		cancel()
		delete(t.serving, r.ID)
		c.queueLocked(typeReply, out)
	})
	return nil
}

// answerCall is the reply to a request; never more than a frame may hold.
func (c *Conn) answerCall(ctx context.Context, r *request) reply {
	refuse := func(code, format string, args ...any) reply {
		return reply{ID: r.ID, Code: clip(code), Error: clip(fmt.Sprintf(format, args...))}
	}
	if c.cfg.Handler == nil {
		return refuse("unknown", "no calls are answered here")
	}
	v, err := c.cfg.Handler(ctx, c.cfg.Peer, r.Method, r.Params)
	if remote := (*RemoteError)(nil); errors.As(err, &remote) {
		return refuse(remote.Code, "%s", remote.Message)
	}
	if err != nil {
		return refuse("failed", "%v", err)
	}
	p, err := json.Marshal(v)
	switch {
	case err != nil:
		return refuse("failed", "encode result: %v", err)
	case len(p) > maxControl-1000:
		return refuse("failed", "a result of %d bytes is too large", len(p))
	}
	return reply{ID: r.ID, Result: p}
}

func (c *Conn) takeCancel(f *frame) error {
	var m cancelMessage
	if err := decodeJSON(f, &m); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if cancel := c.mu.calls.serving[m.ID]; cancel != nil {
		cancel()
	}
	return nil
}
