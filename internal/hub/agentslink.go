package hub

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/relay"
	"github.com/rephub/rephub/internal/trust"
)

// codeRefused is the code of calls that an agent had no business to make.
const codeRefused = "refused"

// refuseAgent is the error of a hook for a call that the agent may not make, for
// another's VM for example. It is logged.
func refuseAgent(format string, args ...any) error {
	return &relay.RemoteError{Code: codeRefused, Message: fmt.Sprintf(format, args...)}
}

// agentLink is one live connection of an agent.
type agentLink struct {
	ID, Name string
	Addr     string // of the host
	Since    time.Time

	agent trust.Agent
	conn  *relay.Conn
	news  chan struct{} // there is something to note
	mu    struct {
		sync.Mutex
		hello   host.Hello
		expires time.Time // the newest certificate
	}
}

// Call asks the agent, like relay.Conn.Call.
func (l *agentLink) Call(ctx context.Context, method string, params, result any) error {
	return l.conn.Call(ctx, method, params, result)
}

// Conn is the connection itself.
func (l *agentLink) Conn() *relay.Conn { return l.conn }

// Done is closed when the connection has ended.
func (l *agentLink) Done() <-chan struct{} { return l.conn.Done() }

// Hello is what the agent said of itself; empty before it has.
func (l *agentLink) Hello() host.Hello {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.hello
}

// link runs the connection of an agent whose handshake is complete.
func (a *agents) link(ctx context.Context, t *agentTrust, c *tls.Conn) error {
	agent, err := trust.PeerAgent(c)
	if err != nil {
		return err
	}
	l := &agentLink{
		ID: agent.ID.String(), Name: agent.Name, Addr: c.RemoteAddr().String(), Since: time.Now().UTC(),
		agent: agent, news: make(chan struct{}, 1),
	}
	l.mu.expires = c.ConnectionState().PeerCertificates[0].NotAfter
	log := a.cfg.Logger.With("agent", l.Name, "agent_id", l.ID, "addr", l.Addr)
	l.conn, err = relay.New(c, relay.Config{
		Peer: l.ID, Receiver: a.receiver, Pipes: a.cfg.Hooks.Pipe, Logger: a.cfg.Logger,
		Handler: func(ctx context.Context, _, method string, params json.RawMessage) (any, error) {
			return a.handle(ctx, t, l, method, params)
		},
	})
	if err != nil {
		return err
	}
	if err := a.enter(t, l); err != nil {
		return err
	}
	log.Info("agent is connected")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { a.noteNews(ctx, t, l) })
	if a.cfg.Hooks.Connected != nil {
		wg.Go(func() { a.cfg.Hooks.Connected(ctx, l) })
	}
	err = l.conn.Run(ctx)
	cancel()
	a.leave(l)
	wg.Wait()
	log.Info("agent's connection ended", "err", err)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), catalogPatience)
	defer cancel()
	a.note(last, t, l)
	return nil
}

// handle answers an agent's call.
func (a *agents) handle(ctx context.Context, t *agentTrust, l *agentLink, method string, params json.RawMessage) (out any, err error) {
	switch {
	case method == trust.MethodRenew:
		out, err = a.renew(t, l, params)
	case method == host.CallHello:
		if err = l.hear(params); err == nil && l.here() {
			a.cfg.BesideVMs()
		}
	case a.cfg.Hooks.Handle == nil:
		err = &relay.RemoteError{Code: "unknown", Message: "unknown call " + method}
	default:
		out, err = a.cfg.Hooks.Handle(ctx, l.ID, method, params)
	}
	if r, ok := err.(*relay.RemoteError); ok && r.Code == codeRefused {
		a.cfg.Logger.Warn("agent was refused", "agent", l.Name, "agent_id", l.ID, "addr", l.Addr, "call", method, "err", r.Message)
	}
	return out, err
}

// renew gives the agent a new certificate.
func (a *agents) renew(t *agentTrust, l *agentLink, params json.RawMessage) (any, error) {
	var m trust.RenewMessage
	if err := json.Unmarshal(params, &m); err != nil {
		return nil, refuseAgent("renewal: %v", err)
	}
	reply, expires, err := t.registrar.Renew(l.agent, m.Message)
	if err != nil {
		a.cfg.Logger.Warn("agent was refused", "agent", l.Name, "agent_id", l.ID, "addr", l.Addr, "err", err)
		return trust.RenewMessage{Message: reply}, nil
	}
	a.cfg.Logger.Info("agent has a new certificate", "agent", l.Name, "agent_id", l.ID, "expires", expires)
	l.mu.Lock()
	l.mu.expires = expires
	l.mu.Unlock()
	l.tell()
	return trust.RenewMessage{Message: reply}, nil
}

// hear takes what the agent says of itself.
func (l *agentLink) hear(params json.RawMessage) error {
	var m host.Hello
	if err := json.Unmarshal(params, &m); err != nil || len(m.Version) > 100 || len(m.Host) > 255 || len(m.Boot) > 64 {
		return refuseAgent("hello: %.100s", params)
	}
	l.mu.Lock()
	l.mu.hello = m
	l.mu.Unlock()
	l.tell()
	return nil
}

// here tells whether the agent runs on this machine, as far as it has said.
func (l *agentLink) here() bool {
	boot := l.Hello().Boot
	return boot != "" && boot == protect.BootID()
}

// tell has what is new noted.
func (l *agentLink) tell() {
	select {
	case l.news <- struct{}{}:
	default:
	}
}

// noteNews notes the agent now, and whenever there is something new.
func (a *agents) noteNews(ctx context.Context, t *agentTrust, l *agentLink) {
	for {
		a.note(ctx, t, l)
		select {
		case <-l.news:
		case <-ctx.Done():
			return
		}
	}
}

// note keeps in the catalog what is to be told of an agent while it is away; a
// catalog that is away itself misses it. An agent that is revoked there, and not
// at the authority, which was put back from an old copy then, is shut out again.
func (a *agents) note(ctx context.Context, t *agentTrust, l *agentLink) {
	l.mu.Lock()
	hello, expires := l.mu.hello, l.mu.expires
	l.mu.Unlock()
	revoked := false
	change := func(r *catalog.Agent) {
		revoked = r.Revoked != nil
		r.Seen, r.CertificateExpires = time.Now().UTC(), expires
		if hello != (host.Hello{}) {
			r.Version, r.Host = hello.Version, hello.Host
		}
	}
	err := a.cfg.Store.UpdateAgent(ctx, l.agent.ID, change)
	if errors.Is(err, catalog.ErrNotFound) { // the catalog was put back from an old copy
		if err = a.cfg.Store.AdmitAgent(ctx, l.agent, l.Since); err == nil {
			err = a.cfg.Store.UpdateAgent(ctx, l.agent.ID, change)
		}
	}
	if err != nil {
		a.cfg.Logger.Debug("note an agent in the catalog", "agent", l.Name, "err", err)
	}
	if revoked {
		err := t.authority.Revoke(l.agent.ID)
		a.cfg.Logger.Warn("agent was refused", "agent", l.Name, "agent_id", l.ID, "addr", l.Addr, "err", errors.Join(trust.ErrRevoked, err))
		_ = l.conn.Close()
	}
}
