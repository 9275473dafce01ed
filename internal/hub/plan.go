package hub

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/plan"
	"github.com/rephub/rephub/internal/vm"
)

const (
	// planEvery is how often VMs are asked what they are, for the plans; planAtOnce how many at a time.
	planEvery, planAtOnce = time.Minute, 8
)

// followPlans notes what the VMs of all groups are, until ctx ends.
func (h *Hub) followPlans(ctx context.Context) {
	tick := time.NewTicker(planEvery)
	defer tick.Stop()
	for {
		h.notePlans(ctx, h.entries()...)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// notePlans asks the VMs of groups what they are.
func (h *Hub) notePlans(ctx context.Context, entries ...*entry) {
	var asking errgroup.Group
	asking.SetLimit(planAtOnce)
	for _, e := range entries {
		r := e.record()
		if e.plan == nil || r.Intent != catalog.IntentProtect {
			continue
		}
		for _, record := range r.VMs {
			asking.Go(func() error {
				h.notePlan(ctx, e, record)
				return nil
			})
		}
	}
	_ = asking.Wait() // who could not be asked is noted
}

// notePlan asks a VM what it is.
func (h *Hub) notePlan(ctx context.Context, e *entry, record catalog.VM) {
	bounded, cancel := context.WithTimeout(ctx, vmPatience)
	defer cancel()
	d, err := h.definition(bounded, record)
	if err == nil {
		err = e.plan.Note(record.Name, d, time.Now())
	}
	if ctx.Err() != nil || errors.Is(err, plan.ErrClosed) {
		return
	}
	if e.planReason(record.Name, err) {
		e.logger.Warn("note in the recovery plan what a VM is; what was known stays", "vm", record.Name, "err", err)
	}
}

// planReason keeps why a VM could not be asked, nil if it could, and tells whether that is news to a log.
func (e *entry) planReason(vmName string, err error) (news bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil {
		delete(e.mu.planReasons, vmName)
		return false
	}
	if e.mu.planReasons == nil {
		e.mu.planReasons = map[string]string{}
	}
	was := e.mu.planReasons[vmName]
	e.mu.planReasons[vmName] = err.Error()
	return was == ""
}

// definition asks a VM what it is, here or through its agent. It must be the one that was protected.
func (h *Hub) definition(ctx context.Context, r catalog.VM) (d vm.Definition, err error) {
	if r.Agent != "" {
		err = h.agents.call(ctx, r.Agent, host.CallDefinition, host.VM{Name: r.Name, QMP: r.QMP, UUID: r.UUID}, &d)
		return d, host.Unwrap(err)
	}
	m, err := h.vms.Get(ctx, r.QMP)
	if err != nil {
		return d, host.VMError(r.Name, r.QMP, err)
	}
	defer m.Close()
	if is := m.Identity().UUID; r.UUID != "" && is != r.UUID {
		return d, api.Errorf(api.CodeConflict, "the VM at %s has the UUID %q, the one that was protected has %s", r.QMP, is, r.UUID)
	}
	return host.Define(ctx, r.Name, r.QMP, m)
}

// Plan implements api.Service.
func (h *Hub) Plan(_ context.Context, group string) (api.Plan, error) {
	e, err := h.findPlan(group)
	if err != nil {
		return api.Plan{}, err
	}
	return e.planNow(), nil
}

// SetPlan implements api.Service.
func (h *Hub) SetPlan(_ context.Context, group string, t api.PlanText) (api.Plan, error) {
	e, err := h.findPlan(group)
	if err != nil {
		return api.Plan{}, err
	}
	text := plan.Strip(t.Text)
	if strings.TrimSpace(text) == "" {
		text = ""
	}
	if err := e.plan.Keep(text); err != nil {
		var wrong *plan.Error
		if !errors.As(err, &wrong) {
			return api.Plan{}, err
		}
		out := api.Errorf(api.CodeInvalid, "the plan of group %s was not changed", group).WithHint("rephub plan show %s shows the plan that counts", group)
		out.Fields = strings.Split(err.Error(), "\n")
		return api.Plan{}, out
	}
	return e.planNow(), nil
}

func (h *Hub) findPlan(group string) (*entry, error) {
	e, err := h.find(group)
	if err == nil && e.plan == nil {
		err = api.Errorf(api.CodeUnavailable, "the recovery plan of group %s could not be read: %v", group, e.planErr)
	}
	return e, err
}

// planNow is the plan as users see it.
func (e *entry) planNow() api.Plan {
	p := e.plan.Plan()
	s, err := p.Settings()
	r := e.record()
	out := api.Plan{Group: r.Name, VMs: []api.PlanVM{}, Networks: []api.PlanNetwork{}, Before: s.Before, After: s.After, Text: p.Show(), Edited: p.Text != ""}
	if err != nil {
		out.Notes = strings.Split(err.Error(), "\n")
	}
	for _, v := range r.VMs {
		out.VMs = append(out.VMs, e.planVM(&r, v.Name, p.VMs, s.VMs[v.Name]))
	}
	slices.SortStableFunc(out.VMs, func(a, b api.PlanVM) int { return cmp.Compare(a.Order, b.Order) })
	for _, name := range slices.Sorted(maps.Keys(s.Networks)) {
		n := s.Networks[name]
		out.Networks = append(out.Networks, api.PlanNetwork{Name: name, Failover: n.Failover.String(), Test: n.Test.String()})
	}
	return out
}

func (e *entry) planVM(r *groupRecord, name string, known map[string]plan.Captured, s plan.VM) api.PlanVM {
	e.mu.Lock()
	reason := e.mu.planReasons[name]
	e.mu.Unlock()
	out := api.PlanVM{Name: name, Reason: reason, Order: s.Order, DelaySeconds: s.Delay.Seconds(), Before: s.Before, After: s.After, NICs: []api.PlanNIC{}, Disks: []api.PlanDisk{}}
	c, ok := known[name]
	if !ok {
		out.Order = max(1, s.Order)
		out.Reason = cmp.Or(reason, "it has not been asked yet")
		return out
	}
	out.Since, out.UUID, out.Machine = &c.Since, c.UUID, c.Machine
	out.Source = map[bool]string{true: "libvirt", false: "qemu"}[c.Domain != ""]
	out.CPUs, out.Memory = cmp.Or(s.CPUs, c.CPUs), cmp.Or(s.Memory, c.Memory)
	for _, n := range c.NICs {
		out.NICs = append(out.NICs, api.PlanNIC{MAC: n.MAC, Network: plan.NetworkOf(n)})
	}
	for _, d := range c.Disks {
		_, ours := r.volume(name, d.Name)
		out.Disks = append(out.Disks, api.PlanDisk{Name: d.Name, Size: d.Size, File: d.File, Protected: ours})
	}
	return out
}
