package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/relay"
	"github.com/rephub/rephub/internal/trust"
)

const (
	// dialPatience bounds connection and handshake.
	dialPatience = 10 * time.Second
	// The pause between two attempts to reach the hub grows from the one to the other.
	minPause, maxPause = 100 * time.Millisecond, 5 * time.Second
)

// errAway: there is no connection to the hub now.
var errAway = errors.New("the hub cannot be reached")

// uplink is the agent's connection to its hub: one at a time, made again
// whenever it is lost.
type uplink struct {
	hub      string
	version  string
	identity *trust.Identity
	cfg      relay.Config
	limit    relay.Timetable
	logger   *slog.Logger

	mu struct {
		sync.Mutex
		conn    *relay.Conn   // nil while there is none
		err     error         // why
		changed chan struct{} // closed and replaced whenever conn is
	}
}

func newUplink(hub, version string, identity *trust.Identity, cfg relay.Config, logger *slog.Logger) *uplink {
	u := &uplink{hub: hub, version: version, identity: identity, cfg: cfg, logger: logger}
	u.mu.changed = make(chan struct{})
	u.mu.err = errAway
	return u
}

// run keeps the connection until ctx ends.
func (u *uplink) run(ctx context.Context) {
	pause := minPause
	said := ""
	for ctx.Err() == nil {
		began := time.Now()
		err := u.once(ctx)
		if ctx.Err() != nil {
			return
		}
		err = trust.Explain(err)
		u.set(nil, err)
		if text := err.Error(); text != said {
			u.logger.Warn("no connection to the hub", "hub", u.hub, "err", err)
			said = text
		}
		if time.Since(began) > maxPause {
			pause, said = minPause, ""
		}
		sleep(ctx, pause/2+rand.N(pause/2))
		pause = min(2*pause, maxPause)
	}
}

// once makes one connection and carries it until it ends.
func (u *uplink) once(ctx context.Context) error {
	if err := u.identity.Check(); err != nil {
		return err
	}
	nc, err := dialHub(ctx, u.hub, u.identity.ClientConfig())
	if err != nil {
		return err
	}
	conn, err := relay.New(nc, u.cfg)
	if err != nil {
		return errors.Join(err, nc.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { u.limit.Keep(ctx, conn.SetLimit) })
	wg.Go(func() {
		name, err := os.Hostname()
		if err != nil {
			name = "" // it is for people only
		}
		if err := conn.Call(ctx, host.CallHello, host.Hello{Version: u.version, Host: name, Boot: protect.BootID()}, nil); err != nil {
			_ = conn.Close()
			return
		}
		u.logger.Info("connected to the hub", "hub", u.hub)
		u.set(conn, nil)
		u.renew(ctx, conn)
	})
	err = conn.Run(ctx)
	cancel() // the renewals end with the connection
	wg.Wait()
	return err
}

// renew gets new certificates while the connection lasts.
func (u *uplink) renew(ctx context.Context, conn *relay.Conn) {
	exchange := func(ctx context.Context, request []byte) ([]byte, error) {
		var reply trust.RenewMessage
		err := conn.Call(ctx, trust.MethodRenew, trust.RenewMessage{Message: request}, &reply)
		return reply.Message, err
	}
	for ctx.Err() == nil {
		renewed, err := u.identity.RenewIfDue(ctx, exchange)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			u.logger.Warn("the certificate could not be renewed, it is tried again", "err", err)
			sleep(ctx, time.Minute)
			continue
		case renewed:
			u.logger.Info("the certificate was renewed")
		}
		sleep(ctx, min(time.Hour, max(time.Second, time.Until(u.identity.RenewAt()))))
	}
}

func (u *uplink) set(conn *relay.Conn, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.mu.conn, u.mu.err = conn, err
	close(u.mu.changed)
	u.mu.changed = make(chan struct{})
}

// now is the present connection, or nil and why there is none.
func (u *uplink) now() (*relay.Conn, error) {
	conn, err, _ := u.state()
	return conn, err
}

func (u *uplink) state() (*relay.Conn, error, <-chan struct{}) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.mu.conn != nil && u.mu.conn.Err() != nil {
		return nil, errAway, u.mu.changed
	}
	return u.mu.conn, u.mu.err, u.mu.changed
}

// wait returns a connection other than old as soon as there is one.
func (u *uplink) wait(ctx context.Context, old *relay.Conn) (*relay.Conn, error) {
	for {
		conn, _, changed := u.state()
		if conn != nil && conn != old {
			return conn, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// call asks the hub; it does not wait for a connection.
func (u *uplink) call(ctx context.Context, method string, params, result any) error {
	conn, err := u.now()
	if err != nil {
		return fmt.Errorf("%w: %w", errAway, err)
	}
	return conn.Call(ctx, method, params, result)
}

// dialHub makes a TLS connection to a hub's agents' port.
func dialHub(ctx context.Context, hub string, conf *tls.Config) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	d := tls.Dialer{NetDialer: &net.Dialer{}, Config: conf}
	nc, err := d.DialContext(ctx, "tcp", hub)
	if err != nil {
		return nil, fmt.Errorf("dial the hub: %w", err)
	}
	return nc.(*tls.Conn), nil
}

// sleep waits d and is false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
