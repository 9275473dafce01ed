package relay

import (
	"context"
	"encoding/binary"
	"fmt"
)

const (
	maxStreams = 256
	// maxWindow bounds what a receiver may grant at once, bytes.
	maxWindow = 2 * maxBatch
)

// stream is one group's part of a connection. Fields without a word are guarded
// by the lock of the Conn. What is due to be sent is kept once and not queued,
// so that a peer that takes nothing costs no memory.
type stream struct {
	c    *Conn
	no   uint16
	ours bool // we opened it: we send data, they answer

	kick chan struct{}      // to who sends or takes data
	news chan struct{}      // to who waits for acks
	over chan struct{}      // closed when the stream has ended
	err  error              // why
	quit context.CancelFunc // ends what serves the stream; nil for ours

	// Due to be sent, in the order in which they stand here.
	open, answer []byte
	stall        []byte
	ack          *Ack
	grant        int64
	close        []byte
	listed       bool // in Conn.due
	ourClose     bool // it has been sent
	theirClose   bool

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

func newStream(c *Conn, no uint16, ours bool) *stream {
	st := &stream{c: c, no: no, ours: ours, kick: make(chan struct{}, 1), news: make(chan struct{}, 1), over: make(chan struct{})}
	if ours {
		st.free = [][]byte{make([]byte, 0, frameCap), make([]byte, 0, frameCap)}
	}
	return st
}

// openStream begins a stream of ours.
func (c *Conn) openStream(h Hello) (*stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.mu.err != nil:
		return nil, c.mu.err
	case c.cfg.Receiver != nil:
		return nil, fmt.Errorf("open a stream: this side of the connection receives")
	case len(c.mu.streams) >= maxStreams:
		return nil, fmt.Errorf("open a stream: there are %d, no more are possible", maxStreams)
	}
	for c.mu.next++; c.mu.next == 0 || c.mu.streams[c.mu.next] != nil; c.mu.next++ {
	}
	st := newStream(c, c.mu.next, true)
	st.open = mustJSON(h)
	c.mu.streams[st.no] = st
	st.listLocked()
	return st, nil
}

// takeOpen begins a stream of the peer's.
func (c *Conn) takeOpen(ctx context.Context, f *frame) error {
	var h Hello
	if err := decodeJSON(f, &h); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.mu.err != nil:
		return nil
	case c.cfg.Receiver == nil:
		return f.wrong("nothing is received here")
	case c.mu.streams[f.stream] != nil:
		return f.wrong("the stream is open already")
	case len(c.mu.streams) >= maxStreams:
		return f.wrong("there are %d streams, no more are possible", maxStreams)
	}
	st := newStream(c, f.stream, false)
	ctx, st.quit = context.WithCancel(ctx)
	c.mu.streams[st.no] = st
	c.wg.Go(func() { st.finish(c.cfg.Receiver.serve(ctx, c.cfg.Peer, st, h)) })
	return nil
}

// finish says why we end the stream, if the peer does not know already.
func (st *stream) finish(err error) {
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	if st.close == nil && !st.ourClose {
		st.close = mustJSON(closing(err))
		st.endLocked(ErrInterrupted)
		st.listLocked()
	}
}

// endLocked lets all who wait for the stream go.
func (st *stream) endLocked(err error) {
	if st.err != nil {
		return
	}
	st.err = err
	st.in = nil
	close(st.over)
	if st.quit != nil {
		st.quit()
	}
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
	}
}

// listLocked tells the writer that something is due.
func (st *stream) listLocked() {
	if !st.listed && st.c.mu.err == nil {
		st.listed = true
		st.c.mu.due = append(st.c.mu.due, st)
		st.c.poke()
	}
}

// collectLocked appends the frames that are due.
func (st *stream) collectLocked(buf []byte) []byte {
	st.listed = false
	if st.open != nil {
		buf, st.open = appendFrame(buf, typeOpen, st.no, st.open), nil
	}
	if st.answer != nil {
		buf, st.answer = appendFrame(buf, typeAnswer, st.no, st.answer), nil
	}
	if st.stall != nil {
		buf, st.stall = appendFrame(buf, typeStall, st.no, st.stall), nil
	}
	if st.ack != nil {
		buf, st.ack = appendFrame(buf, typeAck, st.no, st.ack.encode()), nil
	}
	if n := st.grant; n > 0 {
		st.window += n
		buf, st.grant = appendFrame(buf, typeGrant, st.no, binary.LittleEndian.AppendUint64(nil, uint64(n))), 0
	}
	if st.close != nil {
		buf, st.close = appendFrame(buf, typeClose, st.no, st.close), nil
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

// await waits on ch until ready is true, which is called under the lock.
func (st *stream) await(ctx context.Context, ch <-chan struct{}, ready func() bool) error {
	for {
		st.c.mu.Lock()
		err, ok := st.err, st.err == nil && ready()
		st.c.mu.Unlock()
		if err != nil || ok {
			return err
		}
		select {
		case <-ch:
		case <-st.over:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
