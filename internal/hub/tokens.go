package hub

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/trust"
)

// CreateToken implements api.Service.
func (h *Hub) CreateToken(ctx context.Context, req api.TokenRequest) (api.Token, error) {
	spec := trust.TokenSpec{Life: time.Duration(req.TTLSeconds * float64(time.Second))}
	if req.Agent != "" {
		r, err := h.store.AgentNamed(ctx, req.Agent)
		if errors.Is(err, catalog.ErrNotFound) {
			return api.Token{}, noAgent(req.Agent)
		}
		if err != nil {
			return api.Token{}, catalogError(err)
		}
		spec.Agent = r.ID
	}
	open := h.agents.open
	if req.NewAuthority {
		open = h.agents.remake
	}
	t, err := open(ctx)
	if err != nil {
		return api.Token{}, authorityError(err)
	}
	token, expires, err := t.registrar.CreateToken(ctx, spec)
	if err != nil {
		return api.Token{}, catalogError(err)
	}
	h.cfg.Logger.Info("made a join token", "token", token.ID().String(), "expires", expires, "agent", req.Agent)
	out := api.Token{Token: token.Reveal(), ID: token.ID().String(), Expires: expires, Agent: req.Agent, Agents: []string{}}
	out.Agents = append(out.Agents, h.where.Agents...)
	return out, nil
}

// authorityError is the error of agents.open as users see it.
func authorityError(err error) error {
	if errors.Is(err, trust.ErrAuthority) {
		return api.Errorf(api.CodeConflict, "%v", err)
	}
	return err
}

func noAgent(name string) error {
	return api.Errorf(api.CodeNotFound, "no such agent: %s", name).WithHint("rephub agent list shows them; rephub token create lets a new one in")
}

// ListAgents implements api.Service.
func (h *Hub) ListAgents(ctx context.Context) (api.Agents, error) {
	l := api.Agents{Agents: []api.Agent{}, Note: h.agents.trouble()}
	records, err := h.store.Agents(ctx)
	if err != nil {
		return l, catalogError(err)
	}
	vms, _ := h.agentVMs(ctx)
	for _, r := range records {
		id := r.ID.String()
		if r.Revoked == nil {
			h.agents.called(id, r.Name)
		}
		a := h.agents.describe(r)
		for _, m := range vms {
			if m.Agent == id {
				a.VMs = append(a.VMs, m.Name)
			}
		}
		for _, g := range h.groupsOfAgent(id) {
			a.Groups = append(a.Groups, g.Name)
			for _, v := range g.Volumes { // its host may be away
				a.VMs = append(a.VMs, v.VM)
			}
		}
		slices.Sort(a.VMs)
		a.VMs = slices.Compact(a.VMs)
		l.Agents = append(l.Agents, a)
	}
	slices.SortStableFunc(l.Agents, func(a, b api.Agent) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), a.Created.Compare(b.Created))
	})
	return l, nil
}

// describe is what there is to say about an agent.
func (a *agents) describe(r catalog.Agent) api.Agent {
	out := api.Agent{
		Name: r.Name, ID: r.ID.String(), State: api.AgentAway, Created: r.Created, Host: r.Host, Version: r.Version,
		VMs: []string{}, Groups: []string{}, CertificateExpires: moment(r.CertificateExpires), Since: moment(r.Seen),
	}
	a.mu.Lock()
	l, t := a.mu.links[out.ID], a.mu.trust
	if ended := a.mu.ended[out.ID]; !ended.IsZero() {
		out.Since = &ended
	}
	a.mu.Unlock()
	switch {
	case r.Revoked != nil:
		out.State, out.Since = api.AgentRevoked, r.Revoked
	case t != nil && t.authority.Check(r.ID) != nil:
		out.State, out.Since = api.AgentRevoked, nil
	case l != nil:
		out.State, out.Since, out.Address = api.AgentOnline, &l.Since, l.Addr
		if said := l.Hello(); said.Version != "" {
			out.Version, out.Host = said.Version, said.Host
		}
	}
	return out
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// trouble says why no agent can connect; empty when they can, or when nobody
// has tried.
func (a *agents) trouble() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.err == nil {
		return ""
	}
	return "no agent can connect: " + a.mu.err.Error()
}

// groupsOfAgent are the groups that an agent protects.
func (h *Hub) groupsOfAgent(id string) (groups []groupRecord) {
	for _, e := range h.entries() {
		if r := e.record(); r.Agent == id && r.Intent != catalog.IntentStop {
			groups = append(groups, r)
		}
	}
	return groups
}

// RemoveAgent implements api.Service.
func (h *Hub) RemoveAgent(ctx context.Context, name string, force bool) error {
	r, err := h.agentToRemove(ctx, name)
	if err != nil {
		return err
	}
	id := r.ID.String()
	if groups := h.groupsOfAgent(id); len(groups) > 0 && !force {
		return api.Errorf(api.CodeConflict, "agent %s protects group %s", name, groups[0].Name).
			WithHint("rephub unprotect %s first, with --keep-history to keep what there is; --force shuts the agent out all the same, and its taps stay in the VMs", groups[0].Name)
	}
	t, err := h.agents.open(ctx)
	switch {
	case err == nil:
		if err := t.authority.Revoke(r.ID); err != nil {
			return err
		}
	case errors.Is(err, errAuthorityLost), errors.Is(err, trust.ErrAuthority):
		// Nobody gets in by an authority that is gone.
	default:
		return err
	}
	h.agents.cut(id)
	if r.Revoked == nil {
		err = h.store.RevokeAgent(ctx, r.ID, time.Now().UTC())
		h.cfg.Logger.Warn("agent is shut out", "agent", name, "agent_id", id)
	} else {
		err = h.store.ForgetAgent(ctx, r.ID)
	}
	if errors.Is(err, catalog.ErrNotFound) {
		return nil // somebody else was faster
	}
	return catalogError(err)
}

// agentToRemove is the agent of a name, or the oldest one that had it.
func (h *Hub) agentToRemove(ctx context.Context, name string) (catalog.Agent, error) {
	r, err := h.store.AgentNamed(ctx, name)
	if err == nil {
		return r, nil
	}
	if !errors.Is(err, catalog.ErrNotFound) {
		return r, catalogError(err)
	}
	all, err := h.store.Agents(ctx)
	if err != nil {
		return r, catalogError(err)
	}
	slices.SortFunc(all, func(a, b catalog.Agent) int { return a.Created.Compare(b.Created) })
	i := slices.IndexFunc(all, func(a catalog.Agent) bool { return a.Name == name })
	if i < 0 {
		return r, noAgent(name)
	}
	return all[i], nil
}
