package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/rephub/rephub/internal/trust"
)

// run serves the agents' port until ctx ends. Without an authority nobody gets
// in; it is tried again, for it may be put back.
func (a *agents) run(ctx context.Context, l net.Listener) error {
	t := a.await(ctx)
	if t == nil {
		return nil
	}
	p := &agentPort{agents: a, trust: t, tls: t.authority.ServerConfig(), noise: rate.NewLimiter(1, 20)}
	p.mu.waiting = map[*stranger]struct{}{}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer p.wg.Wait()
	return p.accept(ctx, l)
}

// await opens the authority, however long that takes; nil when ctx has ended.
func (a *agents) await(ctx context.Context) *agentTrust {
	tick := time.NewTicker(a.cfg.Retry)
	defer tick.Stop()
	said := ""
	for {
		t, err := a.open(ctx)
		if err == nil {
			return t
		}
		if text := err.Error(); text != said && ctx.Err() == nil {
			a.cfg.Logger.Error("no agent can connect: open the hub's certificate authority", "err", err)
			said = text
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// agentPort is the agents' listener.
type agentPort struct {
	agents *agents
	trust  *agentTrust
	tls    *tls.Config
	noise  *rate.Limiter // of what strangers make us log
	wg     sync.WaitGroup

	mu struct {
		sync.Mutex
		waiting map[*stranger]struct{}
		count   int64 // strangers so far
	}
}

// stranger is a connection that has not said who it is.
type stranger struct {
	conn   net.Conn
	host   string
	number int64
}

// accept takes connections until ctx ends or the listener is closed.
func (p *agentPort) accept(ctx context.Context, l net.Listener) error {
	var pause time.Duration
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			s := p.admit(c)
			p.wg.Go(func() { p.serve(ctx, s) })
			continue
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		}
		// No descriptors, most likely: there will be some again.
		if pause == 0 {
			p.agents.cfg.Logger.Error("accept an agent's connection", "err", err)
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}

// admit counts a new stranger. When there are too many, the one that has waited
// longest goes, of the address that has the most: who floods us from a few
// addresses is in nobody's way but their own.
func (p *agentPort) admit(c net.Conn) *stranger {
	s := &stranger{conn: c, host: hostOf(c)}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.count++
	s.number = p.mu.count
	p.mu.waiting[s] = struct{}{}
	if len(p.mu.waiting) > p.agents.cfg.Strangers {
		out := p.longestLocked()
		delete(p.mu.waiting, out)
		_ = out.conn.Close()
		p.warn("too many connections that say nothing, one was cut off", out.conn, nil)
	}
	return s
}

func hostOf(c net.Conn) string {
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		return c.RemoteAddr().String()
	}
	return host
}

func (p *agentPort) longestLocked() (out *stranger) {
	each := map[string]int{}
	for s := range p.mu.waiting {
		each[s.host]++
	}
	for s := range p.mu.waiting {
		n := 0
		if out != nil {
			n = each[out.host]
		}
		if each[s.host] > n || each[s.host] == n && s.number < out.number {
			out = s
		}
	}
	return out
}

// known takes a connection out of the strangers; false if it was cut off.
func (p *agentPort) known(s *stranger) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.mu.waiting[s]
	delete(p.mu.waiting, s)
	return ok
}

// serve carries one connection to its end.
func (p *agentPort) serve(ctx context.Context, s *stranger) {
	defer s.conn.Close()
	c := tls.Server(s.conn, p.tls)
	shaking, cancel := context.WithTimeout(ctx, p.agents.cfg.Handshake)
	err := c.HandshakeContext(shaking)
	cancel()
	if err == nil && c.ConnectionState().NegotiatedProtocol == trust.ProtoJoin {
		p.join(ctx, s, c)
		return
	}
	in := p.known(s)
	if err == nil && in {
		err = p.agents.link(ctx, p.trust, c)
	}
	if err != nil && in && ctx.Err() == nil {
		p.refused(c, err)
	}
}

// join serves a join. Who joins is a stranger until it is done.
func (p *agentPort) join(ctx context.Context, s *stranger, c *tls.Conn) {
	agent, err := p.trust.registrar.ServeJoin(ctx, c)
	in := p.known(s)
	log := p.agents.cfg.Logger.With("agent", agent.Name, "addr", c.RemoteAddr().String())
	if !agent.ID.IsZero() {
		log = log.With("agent_id", agent.ID.String())
	}
	switch {
	case err == nil:
		log.Info("host has joined as an agent")
	case ctx.Err() != nil || !in:
	case agent.ID.IsZero() && errors.Is(err, trust.ErrTokenUnknown), errors.Is(err, trust.ErrRequest):
		p.warn("a host that wanted to join was refused", c, err)
	default:
		log.Warn("a host that wanted to join was refused", "err", err)
	}
}

// refused logs a connection that was refused. What anybody can make us say is
// said so often only.
func (p *agentPort) refused(c net.Conn, err error) {
	log := p.agents.cfg.Logger.With("addr", c.RemoteAddr().String())
	agent, known := p.trust.authority.Refused(err)
	switch {
	case known:
		log.Warn("agent was refused", "agent", agent.Name, "agent_id", agent.ID.String(), "err", err)
	case errors.Is(err, trust.ErrRevoked): // it says who
		log.Warn("agent was refused", "err", err)
	default:
		p.warn("connection to the agents' port was refused", c, err)
	}
}

func (p *agentPort) warn(what string, c net.Conn, err error) {
	if p.noise.Allow() {
		p.agents.cfg.Logger.Warn(what, "addr", c.RemoteAddr().String(), "err", err)
	}
}
