package nbd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// ErrServerClosed is what Serve and ServeConn return after Shutdown or Close.
var ErrServerClosed = errors.New("nbd: server closed")

// Server offers exports to NBD clients on any number of listeners. It serves until Close, which frees what it holds.
type Server struct {
	exports Exports
	cfg     ServerConfig
	log     *slog.Logger
	budget  *budget
	watch   *watchdog
	pollers *pollers

	state struct {
		sync.Mutex
		closed    bool // no new listener, no new connection
		listeners map[net.Listener]struct{}
		conns     map[*conn]struct{}
		idle      chan struct{} // not nil: closed when the last connection ends
	}
	serving sync.WaitGroup // Serve and ServeConn calls
}

// NewServer makes a server of exports. It starts no goroutine until it is used.
func NewServer(exports Exports, cfg ServerConfig) (*Server, error) {
	if exports == nil {
		return nil, errors.New("nbd: no exports")
	}
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("nbd: server configuration: %w", err)
	}
	cfg.EnsureDefaults()
	s := &Server{exports: exports, cfg: cfg, log: cfg.Logger, budget: newBudget(cfg.MemoryBudget)}
	s.watch, s.pollers = newWatchdog(), newPollers()
	s.state.listeners = make(map[net.Listener]struct{})
	s.state.conns = make(map[*conn]struct{})
	return s, nil
}

// Serve accepts connections on l until ctx ends, the server is closed or l breaks, and returns when its connections are over:
// the end of ctx cuts them, a broken listener does not. It closes l. The error is never nil: ErrServerClosed, the cause of ctx, or that of a broken listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if err := s.addListener(l); err != nil {
		l.Close()
		return err
	}
	defer s.serving.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(ErrServerClosed)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var conns sync.WaitGroup
	defer conns.Wait()

	err := s.accept(ctx, l, &conns)
	closed := s.removeListener(l)
	l.Close()
	if closed {
		return ErrServerClosed // Shutdown lets connections finish, Close cuts them
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	s.log.Error("accept connections", "addr", l.Addr().String(), "err", err)
	return fmt.Errorf("accept on %s: %w", l.Addr(), err)
}

// accept starts a goroutine for each connection until l breaks. A lack of descriptors is waited out.
func (s *Server) accept(ctx context.Context, l net.Listener, conns *sync.WaitGroup) error {
	delay := 5 * time.Millisecond
	for {
		c, err := l.Accept()
		if err != nil {
			var ne interface{ Temporary() bool }
			if !errors.As(err, &ne) || !ne.Temporary() || ctx.Err() != nil {
				return err
			}
			s.log.Warn("accept connection", "addr", l.Addr().String(), "err", err)
			select {
			case <-time.After(delay):
			case <-ctx.Done():
				return ctx.Err()
			}
			delay = min(2*delay, time.Second)
			continue
		}
		delay = 5 * time.Millisecond
		conns.Go(func() {
			if err := s.ServeConn(ctx, c); err != nil && !errors.Is(err, ErrServerClosed) {
				s.log.Debug("connection ended", "peer", c.RemoteAddr().String(), "err", err)
			}
		})
	}
}

// ServeConn serves one connection until it is over, and closes it. It returns nil after an orderly end (NBD_CMD_DISC,
// NBD_OPT_ABORT, or the peer hanging up between requests).
func (s *Server) ServeConn(ctx context.Context, nc net.Conn) error {
	ctx, cancel := context.WithCancelCause(ctx)
	c := newConn(s, nc, cancel)
	if err := s.addConn(c); err != nil {
		cancel(err)
		nc.Close()
		return err
	}
	defer s.serving.Done()
	defer s.removeConn(c)
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	err := c.serve(ctx)
	cause := context.Cause(ctx)
	cancel(ErrServerClosed)
	nc.Close()
	if cause != nil {
		return cause
	}
	return err
}

// Shutdown stops the listeners, lets every connection answer the requests that it has received, and ends it. When ctx ends
// first, it does as Close and returns the cause.
func (s *Server) Shutdown(ctx context.Context) error {
	idle := make(chan struct{})
	s.stopListening()
	s.state.Lock()
	if len(s.state.conns) == 0 {
		close(idle)
	} else if s.state.idle != nil {
		idle = s.state.idle
	} else {
		s.state.idle = idle
	}
	for c := range s.state.conns {
		c.drain()
	}
	s.state.Unlock()
	var err error
	select {
	case <-idle:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return errors.Join(err, s.Close())
}

// Close stops the listeners, cuts every connection and waits for the backends to be closed: a backend call that ignores its
// context delays it. It may be called twice.
func (s *Server) Close() error {
	s.stopListening()
	s.state.Lock()
	for c := range s.state.conns {
		c.cancel(ErrServerClosed)
	}
	s.state.Unlock()
	s.serving.Wait()
	s.watch.stop()
	return nil
}

func (s *Server) stopListening() {
	s.state.Lock()
	s.state.closed = true
	listeners := s.state.listeners
	s.state.listeners = make(map[net.Listener]struct{})
	s.state.Unlock()
	for l := range listeners {
		l.Close()
	}
}

func (s *Server) addListener(l net.Listener) error {
	s.state.Lock()
	defer s.state.Unlock()
	if s.state.closed {
		return ErrServerClosed
	}
	s.state.listeners[l] = struct{}{}
	s.serving.Add(1)
	return nil
}

// removeListener forgets l and reports whether the server was closed.
func (s *Server) removeListener(l net.Listener) (closed bool) {
	s.state.Lock()
	defer s.state.Unlock()
	delete(s.state.listeners, l)
	return s.state.closed
}

func (s *Server) addConn(c *conn) error {
	s.state.Lock()
	defer s.state.Unlock()
	if s.state.closed {
		return ErrServerClosed
	}
	if len(s.state.conns) >= s.cfg.MaxConns {
		return fmt.Errorf("nbd: more than %d connections", s.cfg.MaxConns)
	}
	s.state.conns[c] = struct{}{}
	s.serving.Add(1)
	return nil
}

func (s *Server) removeConn(c *conn) {
	s.state.Lock()
	defer s.state.Unlock()
	delete(s.state.conns, c)
	if len(s.state.conns) == 0 && s.state.idle != nil {
		close(s.state.idle)
		s.state.idle = nil
	}
}
