package libvirt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/rephub/rephub/internal/vm"
)

// connection is one to a daemon. The library's calls know no context, so they run
// in goroutines of their own, one after the other: a call whose caller has given up
// is still done before the next, and there is never more than one left over.
type connection struct {
	lib    *golibvirt.Libvirt
	wire   *wire
	daemon *daemon
	turn   chan struct{} // holds one element while a call is under way
	// streaming ends the library's streams: when the connection ends it closes
	// only those that it knows by then.
	streaming context.Context
	hush      context.CancelFunc
	drains    []func() // one for each stream; guarded by turn
}

// wire tells when reading from the daemon has failed.
type wire struct {
	net.Conn
	once sync.Once
	lost chan struct{}
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil {
		w.once.Do(func() { close(w.lost) })
	}
	return n, err
}

// Dial implements the library's socket.Dialer.
func (w *wire) Dial() (net.Conn, error) { return w, nil }

// connect reaches the daemon; ctx bounds that only. The error is vm.ErrLost when
// it does not answer as a daemon would.
func connect(ctx context.Context, uri string) (*connection, error) {
	e, err := parseURI(uri, os.Getenv)
	if err != nil {
		return nil, err
	}
	conn, err := e.dial(ctx)
	if err != nil {
		return nil, vm.WithHint(fmt.Errorf("%w: connect to libvirt: %w", vm.ErrLost, err),
			"is libvirtd or virtqemud running, and may this user connect to its socket?")
	}
	c := &connection{wire: &wire{Conn: conn, lost: make(chan struct{})}, daemon: daemonAt(conn.RemoteAddr().String()), turn: make(chan struct{}, 1)}
	c.daemon.enter(c)
	c.streaming, c.hush = context.WithCancel(context.WithoutCancel(ctx))
	c.lib = golibvirt.NewWithDialer(c.wire)
	_, err = call(ctx, c, func(l *golibvirt.Libvirt) (struct{}, error) {
		return struct{}{}, l.ConnectToURI(golibvirt.ConnectURI(e.name))
	})
	if err != nil {
		c.close()
		return nil, fmt.Errorf("%w: connect to libvirt: %w", vm.ErrLost, err)
	}
	return c, nil
}

func (e *endpoint) dial(ctx context.Context) (conn net.Conn, err error) {
	var errs []error
	for _, s := range e.sockets {
		if conn, err = new(net.Dialer).DialContext(ctx, "unix", s); err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// close ends the connection, and waits for the call that is under way and for the
// streams to end. It may be called twice.
func (c *connection) close() {
	c.daemon.leave(c)
	c.wire.Conn.Close()
	c.hush()
	c.turn <- struct{}{}
	for _, drain := range c.drains {
		drain()
	}
	<-c.turn
}

// subscribe starts a stream. It may be left unread: the library holds what was not,
// and close reads the rest, without which the library would wait for ever.
func subscribe[T any](ctx context.Context, c *connection, f func(context.Context, *golibvirt.Libvirt) (<-chan T, error)) (<-chan T, error) {
	return call(ctx, c, func(l *golibvirt.Libvirt) (<-chan T, error) {
		stream, err := f(c.streaming, l)
		if err != nil {
			return nil, err
		}
		c.drains = append(c.drains, func() {
			for range stream {
			}
		})
		return stream, nil
	})
}

// domainEvents starts a stream of events of all domains.
func domainEvents(ctx context.Context, c *connection, id golibvirt.DomainEventID) (<-chan any, error) {
	return subscribe(ctx, c, func(ctx context.Context, l *golibvirt.Libvirt) (<-chan any, error) {
		return l.SubscribeEvents(ctx, id, nil)
	})
}

// call runs f when it is its turn and waits for it no longer than ctx allows.
func call[T any](ctx context.Context, c *connection, f func(*golibvirt.Libvirt) (T, error)) (T, error) {
	var none T
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return none, fmt.Errorf("not sent: %w", ctx.Err())
	case <-c.wire.lost:
		return none, fmt.Errorf("%w: libvirt has hung up", vm.ErrLost)
	}
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		value, err := f(c.lib)
		<-c.turn
		done <- outcome{value, err}
	}()
	select {
	case o := <-done:
		return o.value, lostOr(o.err)
	case <-ctx.Done():
		return none, fmt.Errorf("no reply yet: %w", ctx.Err())
	}
}

// lostOr takes all that is not the daemon's own refusal for a lost connection.
func lostOr(err error) error {
	if err == nil || errors.As(err, new(golibvirt.Error)) || errors.Is(err, golibvirt.ErrUnsupported) {
		return err
	}
	return fmt.Errorf("%w: %w", vm.ErrLost, err)
}

// refusedWith tells whether err is the daemon's refusal with this code.
func refusedWith(err error, code golibvirt.ErrorNumber) bool {
	var e golibvirt.Error
	return errors.As(err, &e) && e.Code == uint32(code)
}
