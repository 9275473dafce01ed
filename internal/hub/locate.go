package hub

import (
	"context"
	"slices"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
)

// locateAll finds where the VMs of a group are now: after a failover, or on the way home, not where they were.
func (h *Hub) locateAll(ctx context.Context, was []catalog.VM) (now []catalog.VM, agent string, err error) {
	for i, old := range was {
		m, err := h.locate(ctx, old)
		if err != nil {
			return nil, "", err
		}
		if i > 0 && m.Agent != agent {
			return nil, "", api.Errorf(api.CodeRefused, "VM %s runs on another host than %s", m.Name, was[0].Name).
				WithHint("the VMs of a group run on one host: the order of writes is kept among them")
		}
		now, agent = append(now, m), m.Agent
	}
	return now, agent, nil
}

// locate finds a VM: where it was added, or else, if it is not there any more, at the one agent that has one of that name. One that is nowhere is where it was.
func (h *Hub) locate(ctx context.Context, old catalog.VM) (catalog.VM, error) {
	m, err := h.findVM(ctx, old.Name)
	if err != nil && api.AsError(err).Code == api.CodeNotFound {
		return old, nil
	}
	if err != nil {
		return m, err
	}
	seen, err := h.inspect(ctx, m)
	if err != nil && m.Agent == "" {
		found, _ := h.agentVMs(ctx)
		found = slices.DeleteFunc(found, func(f catalog.VM) bool { return f.Name != old.Name })
		if len(found) == 1 {
			m = found[0]
			seen, err = h.inspect(ctx, m)
		}
	}
	if err != nil {
		return old, nil // protection says what is wrong, and tries again
	}
	m.UUID = seen.UUID
	return m, nil
}

// elsewhere tells whether the VMs of a group are not where they were.
func elsewhere(was, now *groupRecord) bool {
	return was.Agent != now.Agent || !slices.EqualFunc(was.VMs, now.VMs, func(a, b catalog.VM) bool { return a.QMP == b.QMP && a.NBDServer == b.NBDServer })
}
