package qmp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options of a client. The zero value is usable.
type Options struct {
	// HandshakeTimeout bounds greeting and negotiation; 0 means 5 s.
	HandshakeTimeout time.Duration
	// MaxMessage is the longest message accepted, in bytes; 0 means 64 MiB,
	// QEMU's own limit.
	MaxMessage int64
	// OnEvent, when set, is called for every event before any later reply is
	// delivered, by the goroutine that reads: it must not block and must not
	// call the Client. Use Subscribe where order against replies does not
	// matter.
	OnEvent func(Event)
}

func (o *Options) ensureDefaults() {
	if o.HandshakeTimeout <= 0 {
		o.HandshakeTimeout = 5 * time.Second
	}
	if o.MaxMessage <= 0 {
		o.MaxMessage = 64 << 20
	}
}

// maxInBand keeps QEMU's queue (QMP_REQ_QUEUE_LEN_MAX, 8) from filling up.
const maxInBand = 7

// Client is one QMP connection. All methods may be called at once.
type Client struct {
	conn     net.Conn
	opts     Options
	greeting Greeting
	oob      bool

	slots chan struct{} // one element per in-band command QEMU may hold
	out   chan []byte   // to the writer, which alone writes to conn
	done  chan struct{}
	feed  *Feed
	wg    sync.WaitGroup

	mu struct {
		sync.Mutex
		err     error // why done is closed
		lastID  uint64
		pending map[uint64]*call
	}
}

// ParseAddress splits "unix:PATH" or "tcp:HOST:PORT" for net.Dial. A bare path
// is taken for a unix socket.
func ParseAddress(addr string) (network, address string, err error) {
	if p, ok := strings.CutPrefix(addr, "unix:"); ok && p != "" {
		return "unix", p, nil
	}
	if p, ok := strings.CutPrefix(addr, "tcp:"); ok {
		if _, _, err := net.SplitHostPort(p); err != nil {
			return "", "", fmt.Errorf("parse QMP address %q: %w", addr, err)
		}
		return "tcp", p, nil
	}
	if strings.HasPrefix(addr, "/") {
		return "unix", addr, nil
	}
	return "", "", fmt.Errorf("parse QMP address %q: want unix:PATH or tcp:HOST:PORT", addr)
}

// Dial connects to addr, as ParseAddress takes it, and negotiates. ctx bounds
// connecting and negotiating only.
func Dial(ctx context.Context, addr string, o Options) (*Client, error) {
	network, address, err := ParseAddress(addr)
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("connect to QMP: %w", err)
	}
	c, err := NewClient(ctx, conn, o)
	if err != nil {
		return nil, fmt.Errorf("connect to QMP at %s: %w", addr, err)
	}
	return c, nil
}

// NewClient negotiates on conn, which it owns from now on and closes on error
// too. Out-of-band execution is switched on when the peer offers it.
func NewClient(ctx context.Context, conn net.Conn, o Options) (*Client, error) {
	o.ensureDefaults()
	c := &Client{
		conn:  conn,
		opts:  o,
		slots: make(chan struct{}, maxInBand),
		out:   make(chan []byte),
		done:  make(chan struct{}),
		feed:  NewFeed(),
	}
	c.mu.pending = make(map[uint64]*call)

	ctx, cancel := context.WithTimeout(ctx, o.HandshakeTimeout)
	defer cancel()
	dec, err := c.greet(ctx)
	if err != nil {
		conn.Close()
		return nil, err
	}
	c.wg.Go(func() { c.readLoop(dec) })
	c.wg.Go(c.writeLoop)
	if err := c.negotiate(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// greet waits for the greeting.
func (c *Client) greet(ctx context.Context) (*decoder, error) {
	stop := context.AfterFunc(ctx, func() { c.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	dec := newDecoder(c.conn, c.opts.MaxMessage)
	m, err := dec.next()
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("%w: %w", ErrNoGreeting, ctx.Err())
	case err != nil:
		return nil, fmt.Errorf("%w: read greeting: %w", ErrNotQMP, err)
	case m.QMP == nil:
		return nil, fmt.Errorf("%w: its first message is no greeting", ErrNotQMP)
	}
	c.greeting = m.greeting()
	if !stop() { // the deadline is set or about to be
		return nil, fmt.Errorf("%w: %w", ErrNoGreeting, ctx.Err())
	}
	return dec, nil
}

func (c *Client) negotiate(ctx context.Context) error {
	var args any
	offered := slices.Contains(c.greeting.Capabilities, "oob")
	if offered {
		args = map[string]any{"enable": []string{"oob"}}
	}
	if err := c.Execute(ctx, "qmp_capabilities", args, nil); err != nil {
		if errors.As(err, new(*Error)) {
			return fmt.Errorf("negotiate: %w", err)
		}
		return fmt.Errorf("%w: negotiate: %w", ErrNotQMP, err)
	}
	c.oob = offered
	return nil
}

// Greeting is what the peer said first.
func (c *Client) Greeting() Greeting { return c.greeting }

// OOB says whether ExecuteOOB can be used.
func (c *Client) OOB() bool { return c.oob }

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is nil until Done is closed, then says why.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.err
}

// Close ends the connection and waits for the client's goroutines. Waiting
// calls end with ErrClosed. It may be called twice.
func (c *Client) Close() error {
	c.end(ErrClosed)
	c.wg.Wait()
	return nil
}

// end closes the connection once; the first cause stays.
func (c *Client) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.err != nil {
		return
	}
	c.mu.err = cause
	c.conn.Close()
	close(c.done)
}

// Subscribe starts a subscription that holds up to size events (256 when size
// is not positive) and then drops the oldest.
func (c *Client) Subscribe(size int) *Subscription { return c.feed.Subscribe(size) }

// publish is called by the reader only.
func (c *Client) publish(e Event) {
	if c.opts.OnEvent != nil {
		c.opts.OnEvent(e)
	}
	c.feed.Publish(e)
}

// RemoteAddr is the peer's address.
func (c *Client) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }
