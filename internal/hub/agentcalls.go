package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	gosync "sync"
	"time"

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

// tellEvery is how often an agent that could not do something is told again.
const tellEvery = 5 * time.Second

// agentConnected tells an agent what it has to do, as soon as it is there and until
// it has noted all of it. The connection stays: what is in its spools goes on.
func (h *Hub) agentConnected(ctx context.Context, l *agentLink) {
	for {
		err := h.tellAgent(ctx, l)
		if err == nil || ctx.Err() != nil {
			return
		}
		h.cfg.Logger.Error("tell an agent what it has to do", "agent", l.Name, "err", err)
		select {
		case <-time.After(tellEvery):
		case <-ctx.Done():
			return
		}
	}
}

// tellAgent tells an agent of all its groups, and which it has no more.
func (h *Hub) tellAgent(ctx context.Context, l *agentLink) error {
	var errs []error
	for _, e := range h.entries() {
		if e.record().Agent != l.ID {
			continue
		}
		bounded, cancel := context.WithTimeout(ctx, tellEvery)
		release, err := e.hold(bounded)
		cancel()
		if err != nil { // a command under way tells it itself, and the others do not wait for it
			errs = append(errs, fmt.Errorf("group %s is being changed: %w", e.record().Name, err))
			continue
		}
		if r := e.record(); r.Agent == l.ID {
			err = l.Call(ctx, host.CallApply, wanted(r, r.goal()), nil)
		}
		release()
		if err != nil {
			errs = append(errs, fmt.Errorf("group %s: %w", e.record().Name, host.Unwrap(err)))
		}
	}
	return errors.Join(append(errs, h.forgetAtAgent(ctx, l))...)
}

// forgetAtAgent has an agent forget the groups that were removed or went to another
// one. What it has is asked first: a group that is made meanwhile is listed here
// before the agent hears of it. One that nobody here has ever heard of stays: it may
// be this hub that has forgotten, and what is gone from a host is gone for good. Those
// that an agent has of another hub, to which it does not talk any more, go.
func (h *Hub) forgetAtAgent(ctx context.Context, l *agentLink) error {
	var has host.Has
	if err := l.Call(ctx, host.CallGroups, nil, &has); err != nil {
		return host.Unwrap(err)
	}
	forget := host.Groups{IDs: []journal.GroupID{}}
	for _, g := range has.Groups {
		id := g.ID
		if e, err := h.findID(id); err == nil {
			if e.record().Agent != l.ID {
				forget.IDs = append(forget.IDs, id)
			}
			continue
		}
		if g.Hub != "" && g.Hub != h.data.id {
			forget.IDs = append(forget.IDs, id)
			continue
		}
		was, err := h.store.WasGroup(ctx, id)
		if err != nil || !was {
			h.cfg.Logger.Warn("an agent has a group that this hub does not know; it is left as it is, and ships nothing",
				"agent", l.Name, "group", id, "err", err)
			continue
		}
		forget.IDs = append(forget.IDs, id)
	}
	if len(forget.IDs) == 0 {
		return nil
	}
	return host.Unwrap(l.Call(ctx, host.CallForget, forget, nil))
}

// forgetPatience bounds how long a command waits for an agent to note something.
const forgetPatience = 10 * time.Second

// left lets an agent that is connected drop a group that has been removed, or has
// moved; one that is away hears it when it comes back.
func (h *Hub) left(ctx context.Context, agent string, r groupRecord) {
	l, ok := h.agents.get(agent)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, forgetPatience)
	defer cancel()
	if err := l.Call(ctx, host.CallForget, host.Groups{IDs: []journal.GroupID{r.ID}}, nil); err != nil {
		h.cfg.Logger.Warn("tell an agent that it has a group no more", "agent", l.Name, "group", r.Name, "err", host.Unwrap(err))
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
				g.hear(s, all.Now, all.Trip)
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

// agentVMs asks all connected agents for their VMs. Silent are those that did not
// answer: nothing is known of theirs.
func (h *Hub) agentVMs(ctx context.Context) (found []catalog.VM, silent map[string]bool) {
	links := h.agents.all()
	answers := make([][]catalog.VM, len(links))
	failed := make([]bool, len(links))
	ctx, cancel := context.WithTimeout(ctx, vmPatience)
	defer cancel()
	each(len(links), func(i int) {
		l := links[i]
		var list host.VMs
		if err := l.Call(ctx, host.CallVMs, nil, &list); err != nil {
			h.cfg.Logger.Warn("ask an agent for its VMs", "agent", l.Name, "err", err)
			failed[i] = true
			return
		}
		for _, m := range list.VMs {
			if m.Reason != "" && slices.ContainsFunc(list.VMs, func(o host.VM) bool { return o.Name == m.Name && o.Reason == "" }) {
				continue // what is left of another one
			}
			answers[i] = append(answers[i], catalog.VM{Name: m.Name, QMP: m.QMP, NBDServer: m.NBDServer, Agent: l.ID})
		}
	})
	silent = map[string]bool{}
	for i, l := range links {
		found = append(found, answers[i]...)
		if failed[i] {
			silent[l.ID] = true
		}
	}
	return found, silent
}

// each does something with every index at once and waits.
func each(n int, do func(int)) {
	var wg gosync.WaitGroup
	for i := range n {
		wg.Go(func() { do(i) })
	}
	wg.Wait()
}
