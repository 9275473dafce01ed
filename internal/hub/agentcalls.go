package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	gosync "sync"

	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/relay"
	"github.com/rephub/rephub/internal/sync"
	"github.com/rephub/rephub/journal"
)

// agentHooks are what the groups of agents do with connections.
func (h *Hub) agentHooks() agentHooks {
	return agentHooks{Connected: h.agentConnected, Handle: h.agentCall, Open: h.agentJournal, Pipe: h.agentPipe}
}

// agentConnected tells an agent what it has to do, as soon as it is there.
func (h *Hub) agentConnected(ctx context.Context, l *agentLink) {
	if err := h.tellAgent(ctx, l); err != nil && ctx.Err() == nil {
		h.cfg.Logger.Error("tell an agent what it has to do", "agent", l.Name, "err", err)
		_ = l.conn.Close() // it connects again
	}
}

// tellAgent tells an agent of all its groups, and that it has no others.
func (h *Hub) tellAgent(ctx context.Context, l *agentLink) error {
	keep := host.Keep{IDs: []journal.GroupID{}}
	for _, e := range h.entries() {
		r := e.record()
		if r.Agent != l.ID {
			continue
		}
		keep.IDs = append(keep.IDs, r.ID)
		release, err := e.hold(ctx) // a command under way tells it itself
		if err != nil {
			return err
		}
		r = e.record()
		err = l.Call(ctx, host.CallApply, wanted(r, goals[r.Intent]), nil)
		release()
		if err != nil {
			return fmt.Errorf("group %s: %w", r.Name, host.Unwrap(err))
		}
	}
	return host.Unwrap(l.Call(ctx, host.CallKeep, keep, nil))
}

// forgetAtAgent lets an agent that is connected drop a group that has been
// removed; one that is away hears it when it comes back.
func (h *Hub) forgetAtAgent(ctx context.Context, r groupRecord) {
	l, ok := h.agents.get(r.Agent)
	if !ok {
		return
	}
	if err := h.tellAgent(ctx, l); err != nil {
		h.cfg.Logger.Warn("tell an agent that a group was removed", "agent", l.Name, "group", r.Name, "err", err)
	}
}

// ofAgent is the group of an agent. That another's is asked for is refused, and
// logged by the caller.
func (h *Hub) ofAgent(agent string, id journal.GroupID) (*agentGroup, *entry, error) {
	e, err := h.findID(id)
	if err != nil {
		return nil, nil, refuseAgent("there is no group %s", id)
	}
	if r := e.record(); r.Agent != agent {
		return nil, nil, refuseAgent("group %s is not this agent's", r.Name)
	}
	g, err := e.usable()
	if err != nil {
		return nil, nil, host.Wrap(err)
	}
	ag, ok := g.(*agentGroup)
	if !ok {
		return nil, nil, refuseAgent("group %s is the hub's own", e.record().Name)
	}
	return ag, e, nil
}

// agentCall answers an agent's calls.
func (h *Hub) agentCall(ctx context.Context, agent, method string, params json.RawMessage) (any, error) {
	switch method {
	case host.CallStatus:
		var all host.Statuses
		if err := json.Unmarshal(params, &all); err != nil {
			return nil, refuseAgent("%s: %v", method, err)
		}
		for _, s := range all.Groups {
			// One that is not known any more is about to be dropped there.
			if g, _, err := h.ofAgent(agent, s.ID); err == nil {
				g.hear(s)
			}
		}
		return nil, nil
	case host.CallGrant:
		return forGroup(h, agent, params, func(m host.Grant) journal.GroupID { return m.Group }, func(g *agentGroup, e *entry, m host.Grant) (any, error) {
			if e.record().Intent != catalog.IntentProtect {
				return nil, refuseAgent("group %s is not to be protected now", g.name)
			}
			epoch, err := h.store.GrantEpoch(ctx, m.Group, max(m.After, g.store.Log().Timeline().Epoch))
			return host.Granted{Epoch: epoch}, err
		})
	case host.CallProgress:
		return forGroup(h, agent, params, func(m host.Progress) journal.GroupID { return m.Group }, func(g *agentGroup, _ *entry, m host.Progress) (any, error) {
			return nil, g.store.SetSyncProgress(m.Volume, m.Done)
		})
	case host.CallResize:
		return forGroup(h, agent, params, func(m host.Resize) journal.GroupID { return m.Group }, func(g *agentGroup, _ *entry, m host.Resize) (any, error) {
			return nil, g.store.ResizeVolume(m.Volume, m.Size)
		})
	}
	return nil, &relay.RemoteError{Code: "unknown", Message: "this hub does not know the call " + method}
}

// forGroup answers a call that is about one group.
func forGroup[T any](h *Hub, agent string, params json.RawMessage, id func(T) journal.GroupID, do func(*agentGroup, *entry, T) (any, error)) (any, error) {
	var m T
	if err := json.Unmarshal(params, &m); err != nil {
		return nil, refuseAgent("%v", err)
	}
	g, e, err := h.ofAgent(agent, id(m))
	if err != nil {
		return nil, err
	}
	out, err := do(g, e, m)
	return out, host.Wrap(err)
}

// agentJournal opens the journal that an agent wants to send.
func (h *Hub) agentJournal(_ context.Context, agent string, hello relay.Hello) (relay.Journal, error) {
	g, _, err := h.ofAgent(agent, hello.Group)
	var refused *relay.RemoteError
	if errors.As(err, &refused) && refused.Code == codeRefused {
		return nil, fmt.Errorf("%w: %s", relay.ErrRefused, refused.Message)
	}
	if err != nil {
		return nil, err
	}
	return g.intake, nil
}

// agentPipe serves a byte stream that an agent has opened.
func (h *Hub) agentPipe(ctx context.Context, agent, name string, conn net.Conn) error {
	p, err := host.ParsePipe(name)
	if err != nil {
		return err
	}
	g, _, err := h.ofAgent(agent, p.Group)
	if err != nil {
		h.cfg.Logger.Warn("agent was refused", "agent_id", agent, "pipe", name, "err", err)
		return err
	}
	switch p.Kind {
	case host.PipeEnd:
		return g.intake.sendEnd(conn)
	case host.PipeBase:
		return g.intake.serveBase(ctx, p.Volume, conn)
	}
	hashes, err := g.store.Hashes(p.Volume)
	if err != nil {
		return err
	}
	return sync.ServeCurrent(ctx, conn, hashes)
}

// agentVMs asks all connected agents for their VMs.
func (h *Hub) agentVMs(ctx context.Context) []catalog.VM {
	links := h.agents.all()
	answers := make([][]catalog.VM, len(links))
	ctx, cancel := context.WithTimeout(ctx, vmPatience)
	defer cancel()
	each(len(links), func(i int) {
		l := links[i]
		var list host.VMs
		if err := l.Call(ctx, host.CallVMs, nil, &list); err != nil {
			h.cfg.Logger.Warn("ask an agent for its VMs", "agent", l.Name, "err", err)
			return
		}
		for _, m := range list.VMs {
			answers[i] = append(answers[i], catalog.VM{Name: m.Name, QMP: m.QMP, NBDServer: m.NBDServer, Agent: l.ID})
		}
	})
	var out []catalog.VM
	for _, a := range answers {
		out = append(out, a...)
	}
	return out
}

// each does something with every index at once and waits.
func each(n int, do func(int)) {
	var wg gosync.WaitGroup
	for i := range n {
		wg.Go(func() { do(i) })
	}
	wg.Wait()
}
