package nbd

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	clientBuffer   = 32 << 10 // input of a client, and from where on a payload goes past it, bytes
	coalesceUpTo   = 16 << 10 // payloads up to this are copied behind their header, bytes
	defaultFlights = 64
)

// Client is one connection to an export, usable by many goroutines at once.
//
// One goroutine reads replies and matches them to the requests in flight by cookie. A request whose context ends returns at once;
// its buffer is not touched after that, and its late reply is discarded. A hung server therefore costs no more than the
// context's deadline. When the connection breaks, all requests in flight and all later ones fail with a *ConnError.
type Client struct {
	conn     net.Conn
	r        *bufio.Reader // read by the reader goroutine only
	info     RemoteInfo
	contexts []metaContext
	slots    chan struct{} // one per request in flight, also if nobody waits for it any more
	writing  chan struct{} // holds a token while a request is being sent
	scratch  []byte        // header and small payload of the request being sent
	waiting  atomic.Int32  // requests in progress, for Pool

	flights struct {
		sync.Mutex
		next   uint64 // cookie
		calls  map[uint64]*call
		err    error // why the client is dead
		closed bool  // Close was called
	}
	dead chan struct{} // closed when flights.err is set
	done sync.WaitGroup
}

func newClient(h *clientHandshake) *Client {
	n := h.opts.MaxInFlight
	if n <= 0 {
		n = defaultFlights
	}
	c := &Client{conn: h.conn, r: h.r, info: h.info, contexts: h.contexts, slots: make(chan struct{}, n),
		writing: make(chan struct{}, 1), dead: make(chan struct{})}
	c.flights.calls = make(map[uint64]*call)
	return c
}

func (c *Client) start() { c.done.Go(c.readReplies) }

// Info is what the server said about the export.
func (c *Client) Info() RemoteInfo { return c.info }

// Err is nil while the connection is usable, else the *ConnError of later requests.
func (c *Client) Err() error {
	c.flights.Lock()
	defer c.flights.Unlock()
	return c.flights.err
}

// Done is closed when the connection is of no more use.
func (c *Client) Done() <-chan struct{} { return c.dead }

// doom makes all requests fail. The first cause stays.
func (c *Client) doom(err error) {
	c.flights.Lock()
	defer c.flights.Unlock()
	if c.flights.err == nil {
		c.flights.err = &ConnError{Err: err}
		close(c.dead)
	}
}

// fail ends the connection.
func (c *Client) fail(err error) {
	c.doom(err)
	if t, ok := c.conn.(*tls.Conn); ok {
		t.NetConn().Close() // without a close notification, which would wait for the peer
		return
	}
	c.conn.Close()
}

// Close tells the server that the client goes, unless the server does not take it at once, and ends the connection. Requests in
// flight fail with a *ConnError that wraps ErrClientClosed. It may be called twice.
func (c *Client) Close() error {
	c.flights.Lock()
	first := !c.flights.closed
	c.flights.closed = true
	c.flights.Unlock()
	c.doom(ErrClientClosed)
	if first {
		c.sayGoodbye()
	}
	c.fail(ErrClientClosed)
	c.done.Wait()
	return nil
}

// sayGoodbye sends NBD_CMD_DISC, if nobody is sending.
func (c *Client) sayGoodbye() {
	select {
	case c.writing <- struct{}{}:
		defer func() { <-c.writing }()
	default:
		return
	}
	c.conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	c.conn.Write(c.appendHeader(nil, &call{cmd: cmdDisc}))
	if t, ok := c.conn.(*tls.Conn); ok {
		t.CloseWrite()
	}
}

// appendHeader adds the header of a request to b.
func (c *Client) appendHeader(b []byte, k *call) []byte {
	n := k.n
	if k.data > 0 {
		n = k.data
	}
	if c.info.ExtendedHeaders {
		b = binary.BigEndian.AppendUint32(b, magicExtReq)
	} else {
		b = binary.BigEndian.AppendUint32(b, magicRequest)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(k.flags))
	b = binary.BigEndian.AppendUint16(b, uint16(k.cmd))
	b = binary.BigEndian.AppendUint64(b, k.cookie)
	b = binary.BigEndian.AppendUint64(b, k.off)
	if c.info.ExtendedHeaders {
		return binary.BigEndian.AppendUint64(b, n)
	}
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

// do sends a request with its payload and waits for the reply.
func (c *Client) do(ctx context.Context, k *call, payload []byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case c.slots <- struct{}{}: // given back by finish, when the reply has come
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.dead:
		return c.Err()
	}
	c.waiting.Add(1)
	defer c.waiting.Add(-1)
	k.done = make(chan struct{})
	k.data = uint64(len(payload))
	if c.info.ExtendedHeaders && len(payload) > 0 {
		k.flags |= flagPayloadLen
	}
	if err := c.send(ctx, k, payload); err != nil {
		k.abandon(c.interrupt)
		return err
	}
	select {
	case <-k.done:
		return k.err
	case <-ctx.Done():
	case <-c.dead:
	}
	if k.abandon(c.interrupt) { // the reply came at the same time
		return k.err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return c.Err()
}

// register gives k a cookie.
func (c *Client) register(k *call) error {
	c.flights.Lock()
	defer c.flights.Unlock()
	if c.flights.err != nil {
		return c.flights.err
	}
	c.flights.next++
	k.cookie = c.flights.next
	c.flights.calls[k.cookie] = k
	return nil
}

// lookup finds the request that a reply belongs to.
func (c *Client) lookup(cookie uint64) *call {
	c.flights.Lock()
	defer c.flights.Unlock()
	return c.flights.calls[cookie]
}

// finish ends a request whose reply is complete, or that was never sent.
func (c *Client) finish(k *call) {
	c.flights.Lock()
	delete(c.flights.calls, k.cookie)
	c.flights.Unlock()
	k.complete()
	<-c.slots
}
