package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/relay"
	"github.com/rephub/rephub/internal/trust"
	"github.com/rephub/rephub/internal/vfs"
)

// agentHooks is what the groups of agents do with connections. An agent is
// named by its id. A hook that is nil is left out.
type agentHooks struct {
	// Connected runs in a goroutine of its own while the connection lasts; ctx
	// ends with it. A connection that replaces another may come before the
	// other's ctx has ended: get tells which one counts.
	Connected func(ctx context.Context, l *agentLink)
	// Gone is called after each connection's end; there may be a newer one.
	Gone func(agent string)
	// Handle answers the agent's calls; see refuseAgent.
	Handle func(ctx context.Context, agent, method string, params json.RawMessage) (any, error)
	// Open is that of relay.ReceiverConfig.
	Open func(ctx context.Context, agent string, h relay.Hello) (relay.Journal, error)
	// Pipe is that of relay.Config.
	Pipe relay.PipeHandler
}

// agentsConfig of agents. Zero fields are the defaults named here.
type agentsConfig struct {
	Dir    string // of the authority
	Store  *catalog.Store
	Hooks  agentHooks
	Trust  trust.Config
	Logger *slog.Logger
	// BesideVMs is called whenever an agent of this machine says hello; none.
	BesideVMs func()
	// Strangers is how many connections may be open that have not said who
	// they are; 64.
	Strangers int
	// Handshake is how long a connection may take to say who it is; 10 s.
	Handshake time.Duration
	// Retry is after how long an authority that could not be opened is tried
	// again; 5 s.
	Retry time.Duration
}

// agents are the agents of other hosts: the authority that vouches for them and
// their connections, one for each.
type agents struct {
	cfg      agentsConfig
	receiver *relay.Receiver
	opening  chan struct{} // held while the authority is opened

	mu struct {
		sync.Mutex
		trust *agentTrust
		err   error // why there is no authority
		links map[string]*agentLink
		names map[string]string    // of agents seen, by id
		ended map[string]time.Time // when the last connection of an agent did
	}
}

// agentTrust is there once the authority is.
type agentTrust struct {
	authority *trust.Authority
	registrar *trust.Registrar
}

func newAgents(cfg agentsConfig) (*agents, error) {
	if cfg.BesideVMs == nil {
		cfg.BesideVMs = func() {}
	}
	if cfg.Strangers == 0 {
		cfg.Strangers = 64
	}
	if cfg.Handshake == 0 {
		cfg.Handshake = 10 * time.Second
	}
	if cfg.Retry == 0 {
		cfg.Retry = 5 * time.Second
	}
	if cfg.Hooks.Open == nil {
		cfg.Hooks.Open = func(context.Context, string, relay.Hello) (relay.Journal, error) {
			return nil, fmt.Errorf("%w: no group's journal is taken here", relay.ErrRefused)
		}
	}
	a := &agents{cfg: cfg, opening: make(chan struct{}, 1)}
	a.mu.links, a.mu.names, a.mu.ended = map[string]*agentLink{}, map[string]string{}, map[string]time.Time{}
	var err error
	a.receiver, err = relay.NewReceiver(relay.ReceiverConfig{Open: cfg.Hooks.Open, Logger: cfg.Logger})
	return a, err
}

// open is the authority; it is made when there never was one.
func (a *agents) open(ctx context.Context) (*agentTrust, error) {
	return a.openOr(ctx, func() error { return a.mayMake(ctx) })
}

// remake is open, and makes another authority in place of one that is lost.
func (a *agents) remake(ctx context.Context) (*agentTrust, error) {
	return a.openOr(ctx, func() error {
		a.cfg.Logger.Warn("a new certificate authority is made, all agents have to join again", "dir", a.cfg.Dir)
		return nil
	})
}

// openOr opens the authority, or makes it if mayMake agrees.
func (a *agents) openOr(ctx context.Context, mayMake func() error) (*agentTrust, error) {
	select {
	case a.opening <- struct{}{}:
		defer func() { <-a.opening }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	a.mu.Lock()
	t := a.mu.trust
	a.mu.Unlock()
	if t != nil {
		return t, nil
	}
	cfg := a.cfg.Trust
	cfg.MayMake = mayMake
	authority, err := trust.OpenAuthority(vfs.OS(), a.cfg.Dir, cfg)
	if err == nil {
		t = &agentTrust{authority, trust.NewRegistrar(authority, a.cfg.Store.Tokens(), a.admit)}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.trust, a.mu.err = t, err
	return t, err
}

// errAuthorityLost is in the error of open when agents have joined, and what
// they trust is gone.
var errAuthorityLost = errors.New("the authority that this hub's agents trust is gone")

// mayMake refuses a new authority when the catalog knows agents of an old one:
// none of them would believe it.
func (a *agents) mayMake(ctx context.Context) error {
	l, err := a.cfg.Store.Agents(ctx)
	if err != nil {
		return catalogError(err)
	}
	n := 0
	for _, r := range l {
		if r.Revoked == nil {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", errAuthorityLost, api.Errorf(api.CodeConflict, "there are %d of them, and it is not in %s", n, a.cfg.Dir).
		WithHint("put the directory back from a backup; without one: rephub token create --new-authority --agent NAME for each of rephub agent list, with which it joins again"))
}

// admit records an agent that joins.
func (a *agents) admit(ctx context.Context, agent trust.Agent) error {
	err := a.cfg.Store.AdmitAgent(ctx, agent, time.Now().UTC())
	if errors.Is(err, catalog.ErrExists) {
		return &trust.NotAdmittedError{Reason: fmt.Sprintf("another agent has the name %s: choose one with --name; if this host was that agent, "+
			"make a token with 'rephub token create --agent %s'", agent.Name, agent.Name)}
	}
	return err
}

// get is the live connection of an agent.
func (a *agents) get(id string) (*agentLink, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l, ok := a.mu.links[id]
	return l, ok
}

// all are the live connections.
func (a *agents) all() []*agentLink {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Values(a.mu.links))
}

// agentAwayError: no connection of the agent is there.
type agentAwayError struct{ Agent string }

func (e *agentAwayError) Error() string { return "agent " + e.Agent + " is not connected" }

// Unwrap is what users are told.
func (e *agentAwayError) Unwrap() error {
	return api.Errorf(api.CodeUnavailable, "%s", e.Error()).
		WithHint("is its host up, and rephub agent running there? see rephub agent list")
}

// call asks an agent. It returns an *agentAwayError when none is connected, a
// *relay.RemoteError when the agent itself refuses.
func (a *agents) call(ctx context.Context, id, method string, params, result any) error {
	l, ok := a.get(id)
	if !ok {
		return &agentAwayError{a.name(ctx, id)}
	}
	err := l.conn.Call(ctx, method, params, result)
	var own *relay.RemoteError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &own) && l.conn.Err() != nil:
		return api.Errorf(api.CodeUnavailable, "agent %s: %v", l.Name, err).
			WithHint("the connection was lost meanwhile; what a group is meant to do is noted, and the agent does it when it is back")
	}
	return fmt.Errorf("agent %s: %w", l.Name, err)
}

// name is what people call an agent; its id when nobody knows, and nothing for
// none, which is the hub itself.
func (a *agents) name(ctx context.Context, id string) string {
	a.mu.Lock()
	name := a.mu.names[id]
	a.mu.Unlock()
	if name != "" || id == "" {
		return name
	}
	parsed, err := trust.ParseAgentID(id)
	if err != nil {
		return id
	}
	ctx, cancel := context.WithTimeout(ctx, copyPatience)
	defer cancel()
	r, err := a.cfg.Store.Agent(ctx, parsed)
	if err != nil {
		r.Name = id // and it is not asked for again: a status waits for nobody
	}
	a.called(id, r.Name)
	return r.Name
}

// called remembers an agent's name, for when the catalog is away.
func (a *agents) called(id, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.names[id] = name
}

// enter makes l the agent's connection and ends the one before. An agent that
// was revoked since the handshake does not get in.
func (a *agents) enter(t *agentTrust, l *agentLink) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := t.authority.Check(l.agent.ID); err != nil {
		return err
	}
	if old := a.mu.links[l.ID]; old != nil {
		a.cfg.Logger.Info("a newer connection of the agent replaces the older one", "agent", l.Name, "old", old.Addr, "new", l.Addr)
		_ = old.conn.Close()
	}
	a.mu.links[l.ID], a.mu.names[l.ID] = l, l.Name
	return nil
}

func (a *agents) leave(l *agentLink) {
	a.mu.Lock()
	if a.mu.links[l.ID] == l {
		delete(a.mu.links, l.ID)
		a.mu.ended[l.ID] = time.Now().UTC()
	}
	a.mu.Unlock()
	if a.cfg.Hooks.Gone != nil {
		a.cfg.Hooks.Gone(l.ID)
	}
}

// cut ends an agent's live connection. The caller has revoked it, so none
// enters any more.
func (a *agents) cut(id string) {
	if l, ok := a.get(id); ok {
		_ = l.conn.Close()
	}
}

// agents of this hub's data directory.
func (h *Hub) newAgents() (*agents, error) {
	return newAgents(agentsConfig{
		Dir: filepath.Join(h.cfg.Data, "authority"), Store: h.store, Hooks: h.agentHooks(), Trust: h.cfg.Trust, Logger: h.cfg.Logger,
		BesideVMs: h.beside,
	})
}
