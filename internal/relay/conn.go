package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Config of a Conn. Zero fields are the defaults given.
type Config struct {
	// Peer is who the other side is, as its certificate says; the Receiver and
	// the Handler are told.
	Peer string
	// Receiver takes the peer's journals. Without one this side may send its
	// own; a connection carries journals in one direction.
	Receiver *Receiver
	// Handler answers the peer's calls; without one they are refused.
	Handler Handler
	// Pipes serves the pipes that the peer opens (Conn.Pipe); without it they
	// are refused.
	Pipes PipeHandler
	// Ping is after how much silence of our own the peer hears from us. 2 s.
	Ping time.Duration
	// Silence is how long a peer may send nothing, or take nothing of 64 KiB,
	// before it is given up. 10 s.
	Silence time.Duration
	// Limit of the data frames sent, bytes per second. 0 is no limit.
	Limit float64
	// Logger gets what nobody is told otherwise. Nothing is logged by default.
	Logger *slog.Logger
}

// EnsureDefaults fills in the zero fields.
func (c *Config) EnsureDefaults() {
	if c.Ping == 0 {
		c.Ping = 2 * time.Second
	}
	if c.Silence == 0 {
		c.Silence = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Validate tells what is out of range.
func (c *Config) Validate() error {
	switch {
	case c.Ping < 0 || c.Silence < 0 || c.Limit < 0:
		return errors.New("durations and limits are not negative")
	case c.Ping >= c.Silence:
		return fmt.Errorf("a ping after %s comes too late for a peer that waits %s", c.Ping, c.Silence)
	}
	return nil
}

// Conn is one connection between two machines. All methods may be called
// concurrently.
//
// The goroutine of Run reads; another writes; each stream that the peer opened
// and each call that it made has one of its own. Run waits for all of them.
// Nobody but the writer writes, and the reader never waits for anybody.
type Conn struct {
	nc    net.Conn
	cfg   Config
	limit *rate.Limiter
	wake  chan struct{} // to the writer: there is something to send
	done  chan struct{} // closed when the connection has failed
	wg    sync.WaitGroup

	mu struct {
		sync.Mutex
		running bool
		err     error              // why it ended
		streams map[uint16]*stream // until both sides have said close
		counts  map[streamKind]int // of streams
		next    uint16             // number to try for the next stream
		due     []*stream          // with something other than data to send
		turns   []*stream          // with a data frame to send, in turn
		queue   [][]byte           // whole frames of calls
		calls   callTable
	}
}

// New makes a connection of nc, which it closes at the end; on both sides of nc
// somebody must call Run. nc may be a *tls.Conn, before its handshake or after:
// a deadline that passes is the end of the connection, never tried again.
func New(nc net.Conn, cfg Config) (*Conn, error) {
	cfg.EnsureDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("relay connection: %w", err)
	}
	c := &Conn{nc: nc, cfg: cfg, wake: make(chan struct{}, 1), done: make(chan struct{})}
	c.limit = rate.NewLimiter(rate.Inf, frameCap(maxPiece))
	c.SetLimit(cfg.Limit)
	c.mu.streams = make(map[uint16]*stream)
	c.mu.counts = make(map[streamKind]int)
	c.mu.calls.init()
	return c, nil
}

// Run carries the connection until it fails, ctx ends or Close is called; it
// says why. When it returns, nothing of it is left: a receiving journal whose
// disk hangs is waited for.
func (c *Conn) Run(ctx context.Context) error {
	c.mu.Lock()
	if c.mu.running {
		c.mu.Unlock()
		return errors.New("relay connection is already running")
	}
	c.mu.running = true
	c.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { c.fail(ctx.Err()) })
	defer stop()
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	c.wg.Go(func() { c.fail(c.write()) })
	c.fail(c.read(work))
	cancel()
	c.wg.Wait()
	return c.Err()
}

// Close ends the connection; Run returns ErrClosed. It does not wait for Run.
func (c *Conn) Close() error {
	c.fail(ErrClosed)
	return nil
}

// Done is closed when the connection has ended; Err then says why.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err is nil as long as the connection lasts.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.err
}

// SetLimit changes the bandwidth limit; a timetable calls it.
func (c *Conn) SetLimit(bytesPerSecond float64) {
	limit := rate.Inf
	if bytesPerSecond > 0 {
		limit = rate.Limit(bytesPerSecond)
	}
	c.limit.SetLimit(limit)
	c.poke()
}

// fail ends the connection; the first reason counts.
func (c *Conn) fail(err error) {
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	c.mu.Lock()
	if c.mu.err != nil {
		c.mu.Unlock()
		return
	}
	c.mu.err = err
	for _, st := range c.mu.streams {
		st.endLocked(err)
	}
	c.mu.calls.failLocked(err)
	c.mu.due, c.mu.turns, c.mu.queue = nil, nil, nil
	c.mu.Unlock()
	close(c.done)
	if err := hangUp(c.nc); err != nil {
		c.cfg.Logger.Debug("close relay connection", "peer", c.cfg.Peer, "err", err)
	}
}

// farewell is how long TLS may try to tell the peer that we go: its own limit is
// 5 s, for a peer that takes nothing.
const farewell = 500 * time.Millisecond

func hangUp(nc net.Conn) error {
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok {
		cut := time.AfterFunc(farewell, func() { _ = t.NetConn().Close() })
		defer cut.Stop()
	}
	return nc.Close()
}

// poke wakes the writer.
func (c *Conn) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
