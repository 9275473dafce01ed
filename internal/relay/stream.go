package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// Streams and pipes that one side may have opened at a time.
	maxStreams = 256
	maxPipes   = 64
	// maxWindow bounds what a receiver may grant at once, bytes.
	maxWindow = 2 * maxBatch
)

// stream is one group's part of a connection, or a pipe's. Fields without a word
// are guarded by the lock of the Conn. What is due to be sent is kept once and
// not queued, so that a peer that takes nothing costs no memory.
type stream struct {
	c          *Conn
	no         uint16 // as we write it
	streamKind        // never changes

	kick chan struct{}      // to who sends data: credit, a buffer, an answer
	came chan struct{}      // to who takes data or acks
	over chan struct{}      // closed when the stream has ended
	err  error              // why
	quit context.CancelFunc // ends what serves the stream; nil for ours

	due        due
	ourClose   bool // it has been sent
	theirClose bool

	// Of the side that sends data.
	answered *answer
	credit   int64  // bytes that the peer takes
	out      []byte // a data frame that waits for its turn, or is being sent
	free     [][]byte
	acked    Ack
	stalled  string

	// Of the side that takes data.
	in     []byte // what came and was not taken yet
	window int64  // bytes that the peer may still send
}

// streamKind tells apart what is counted apart.
type streamKind struct {
	ours bool // we opened it; of a group, we send the data
	pipe bool // data goes both ways
}

// due is what a stream has to send beside data, in this order.
type due struct {
	open   []byte // the whole frame
	answer []byte
	stall  []byte
	ack    *Ack
	grant  int64
	close  []byte
	listed bool // in Conn.due
}

// addLocked makes a stream if there may be one more of its kind.
func (c *Conn) addLocked(no uint16, kind streamKind) (*stream, error) {
	most := maxStreams
	if kind.pipe {
		most = maxPipes
	}
	if c.mu.counts[kind] >= most {
		return nil, fmt.Errorf("there are %d of its kind, no more are possible", most)
	}
	st := &stream{c: c, no: no, streamKind: kind, kick: make(chan struct{}, 1), came: make(chan struct{}, 1), over: make(chan struct{})}
	st.free = make([][]byte, 2) // they grow to what is needed
	c.mu.streams[no] = st
	c.mu.counts[kind]++
	return st, nil
}

// openStream begins a stream of ours with a frame of the type.
func (c *Conn) openStream(t frameType, hello any) (*stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pipe := t == typePipe
	switch {
	case c.mu.err != nil:
		return nil, c.mu.err
	case c.cfg.Receiver != nil && !pipe:
		return nil, errors.New("open a stream: this side of the connection receives")
	}
	for c.mu.next++; c.mu.next&^theirs == 0 || c.mu.streams[c.mu.next&^theirs] != nil; c.mu.next++ {
	}
	st, err := c.addLocked(c.mu.next&^theirs, streamKind{ours: true, pipe: pipe})
	if err != nil {
		return nil, fmt.Errorf("open a stream: %w", err)
	}
	if pipe {
		st.window = pipeWindow
	}
	st.due.open = appendFrame(nil, t, st.no, mustJSON(hello))
	st.listLocked()
	return st, nil
}

// takeOpen begins a group's stream of the peer's.
func (c *Conn) takeOpen(ctx context.Context, f *frame) error {
	var h Hello
	if err := decodeJSON(f, &h); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cfg.Receiver == nil {
		return f.wrong("nothing is received here")
	}
	return c.acceptLocked(ctx, f, 0, func(ctx context.Context, st *stream) error {
		return c.cfg.Receiver.serve(ctx, c.cfg.Peer, st, h)
	})
}

// acceptLocked begins a stream of the peer's, which takes credit bytes of ours
// and is carried by serve.
func (c *Conn) acceptLocked(ctx context.Context, f *frame, credit int64, serve func(context.Context, *stream) error) error {
	switch {
	case c.mu.err != nil:
		return nil
	case f.stream&theirs != 0:
		return f.wrong("the number is not one of the peer's")
	case c.mu.streams[f.stream|theirs] != nil:
		return f.wrong("the stream is open already")
	}
	st, err := c.addLocked(f.stream|theirs, streamKind{pipe: f.typ == typePipe})
	if err != nil {
		return f.wrong("%v", err)
	}
	st.credit = credit
	ctx, st.quit = context.WithCancel(ctx)
	c.wg.Go(func() { st.finish(serve(ctx, st)) })
	return nil
}

// finish says why we end the stream, if the peer does not know already.
func (st *stream) finish(err error) {
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	if st.due.close == nil && !st.ourClose {
		st.due.close = mustJSON(closing(err))
		st.endLocked(ErrInterrupted)
		st.in = nil
		st.listLocked()
	}
}

// hangUp ends a stream for this side, which goes on serving it until it finishes.
func (st *stream) hangUp() {
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	st.stopLocked(ErrInterrupted)
	st.in = nil
}

// endLocked ends the stream and what serves it.
func (st *stream) endLocked(err error) {
	st.stopLocked(err)
	if st.quit != nil {
		st.quit()
	}
}

// stopLocked lets all who wait for the stream go; the first reason counts. What
// came through a pipe before can still be read.
func (st *stream) stopLocked(err error) {
	if st.err != nil {
		return
	}
	st.err = err
	if !st.pipe {
		st.in = nil
	}
	close(st.over)
}

// ended needs the lock.
func (st *stream) ended() bool { return st.err != nil }

// reason is why the stream has ended.
func (st *stream) reason() error {
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	return st.err
}

// forgetLocked lets go of a stream that both sides have closed.
func (st *stream) forgetLocked() {
	if st.ourClose && st.theirClose {
		delete(st.c.mu.streams, st.no)
		st.c.mu.counts[st.streamKind]--
	}
}

// listLocked tells the writer that something is due.
func (st *stream) listLocked() {
	if !st.due.listed && st.c.mu.err == nil {
		st.due.listed = true
		st.c.mu.due = append(st.c.mu.due, st)
		st.c.poke()
	}
}

// collectLocked appends the frames that are due.
func (st *stream) collectLocked(buf []byte) []byte {
	d := &st.due
	d.listed = false
	buf, d.open = append(buf, d.open...), nil
	if d.answer != nil {
		buf, d.answer = appendFrame(buf, typeAnswer, st.no, d.answer), nil
	}
	if d.stall != nil {
		buf, d.stall = appendFrame(buf, typeStall, st.no, d.stall), nil
	}
	if d.ack != nil {
		buf, d.ack = appendFrame(buf, typeAck, st.no, d.ack.encode()), nil
	}
	if n := d.grant; n > 0 {
		st.window += n
		buf, d.grant = appendFrame(buf, typeGrant, st.no, binary.LittleEndian.AppendUint64(nil, uint64(n))), 0
	}
	if d.close != nil && !st.owesLocked() {
		buf, d.close = appendFrame(buf, typeClose, st.no, d.close), nil
		st.ourClose = true
		st.forgetLocked()
	}
	return buf
}

// tell makes something due: change does it, under the lock.
func (st *stream) tell(change func()) {
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	if !st.ended() {
		change()
		st.listLocked()
	}
}

// await waits on ch until ready is true, which is called under the lock, as long
// as the stream has not ended.
func (st *stream) await(ctx context.Context, ch <-chan struct{}, ready func() bool) error {
	err := st.wait(ctx.Done(), ch, func() bool { return !st.ended() && ready() })
	if errors.Is(err, errGivenUp) {
		return ctx.Err()
	}
	return err
}

// errGivenUp: done was closed before what was waited for.
var errGivenUp = errors.New("not waited for any longer")

// wait is await; but ready is also called when the stream has ended, and done
// gives errGivenUp.
func (st *stream) wait(done, ch <-chan struct{}, ready func() bool) error {
	for {
		st.c.mu.Lock()
		ok, err := ready(), st.err
		st.c.mu.Unlock()
		if ok {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-ch:
		case <-st.over:
		case <-done:
			return errGivenUp
		}
	}
}
