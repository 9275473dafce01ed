package hub

import (
	"context"
	"slices"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/host"
)

const (
	// moveEvery is how often groups whose VMs are not where they were are looked for.
	moveEvery = 3 * time.Second
	// moveAway is how long an agent must be away until its VMs may be said to run
	// elsewhere.
	moveAway = 10 * time.Second
)

// followVMs lets groups follow their VMs to another host, until ctx ends: after a
// live migration, or when somebody has started them elsewhere because their host
// is gone. What the old host had not sent is found by comparing.
func (h *Hub) followVMs(ctx context.Context) {
	tick := time.NewTicker(moveEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		var lost []*entry
		for _, e := range h.entries() {
			if g, ok := e.current().(*agentGroup); ok && e.record().Intent == catalog.IntentProtect && g.mayHaveMoved() {
				lost = append(lost, e)
			}
		}
		if len(lost) == 0 {
			continue
		}
		found, silent := h.agentVMs(ctx)
		for _, e := range lost {
			if silent[e.record().Agent] {
				continue // who knows what it still has
			}
			if err := h.follow(ctx, e, found); err != nil && ctx.Err() == nil {
				e.logger.Error("follow a group's VMs to another host", "err", err)
			}
		}
	}
}

// mayHaveMoved says whether it is worth looking for the group's VMs elsewhere.
func (g *agentGroup) mayHaveMoved() bool {
	s, age, fresh := g.heard()
	if fresh {
		return api.State(s.State) == api.StateDegraded
	}
	return age > moveAway && time.Since(g.made) > moveAway
}

// follow moves a group to the agent that has all its VMs now, if there is one.
func (h *Hub) follow(ctx context.Context, e *entry, found []catalog.VM) error {
	g, ok := e.current().(*agentGroup)
	if !ok {
		return nil // its VMs have failed over meanwhile
	}
	r := e.record()
	for _, agent := range h.agents.all() {
		if agent.ID == r.Agent {
			continue
		}
		vms, ok := movedTo(&r, agent.ID, found)
		if !ok || !h.areSame(ctx, &r, vms) || !h.allThere(g) {
			continue
		}
		release, err := e.hold(ctx)
		if err != nil {
			return err
		}
		defer release()
		if e.current() != g || e.record().Intent != catalog.IntentProtect {
			return nil // somebody has changed it meanwhile
		}
		return h.move(ctx, e, g, agent, vms)
	}
	return nil
}

// allThere says that an old agent that is connected has nothing to send any more.
func (h *Hub) allThere(g *agentGroup) bool {
	s, _, fresh := g.heard()
	return !fresh || s.Last <= g.store.Log().Appended()
}

// movedTo finds the group's VMs on an agent. One that its own agent still has
// did not move.
func movedTo(r *groupRecord, agent string, found []catalog.VM) ([]catalog.VM, bool) {
	at := func(agent, name string) int {
		return slices.IndexFunc(found, func(m catalog.VM) bool { return m.Agent == agent && m.Name == name })
	}
	var vms []catalog.VM
	for _, old := range r.VMs {
		i := at(agent, old.Name)
		if i < 0 || at(r.Agent, old.Name) >= 0 {
			return nil, false
		}
		vms = append(vms, found[i])
	}
	return vms, true
}

// areSame says whether the VMs are those of the group, and not others of the same
// names: a VM without an identity of its own is never believed to be.
func (h *Hub) areSame(ctx context.Context, r *groupRecord, vms []catalog.VM) bool {
	for i := range vms {
		ask, cancel := context.WithTimeout(ctx, vmPatience)
		var seen api.VM
		err := h.agents.call(ask, vms[i].Agent, host.CallInspect, host.Name{Name: vms[i].Name}, &seen)
		cancel()
		if err != nil || !seen.Reachable || seen.UUID != r.VMs[i].UUID || seen.UUID == "" {
			return false
		}
		vms[i].UUID = seen.UUID
		for _, v := range r.Volumes {
			if v.VM == seen.Name && !slices.ContainsFunc(seen.Volumes, func(s api.VMVolume) bool { return s.Name == v.Disk }) {
				return false
			}
		}
	}
	return true
}

// move makes an agent the one that protects the group. The caller holds the entry.
func (h *Hub) move(ctx context.Context, e *entry, g *agentGroup, to *agentLink, vms []catalog.VM) error {
	r := e.record()
	from := r.Agent
	r.Agent, r.VMs = to.ID, vms
	if err := h.become(ctx, e, r); err != nil {
		return err
	}
	g.moved(r)
	e.logger.Info("the group's VMs run on another host, it follows them", "from", h.agents.name(ctx, from), "to", to.Name)
	h.left(ctx, from, r)
	return host.Unwrap(to.Call(ctx, host.CallApply, wanted(r, r.goal()), nil))
}
