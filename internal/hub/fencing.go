package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/failover"
	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/recovery"
	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/journal"
)

// fencing is what failovers do to groups: failover.Actions.
type fencing struct{ *Hub }

// Unmount implements failover.Actions.
func (h fencing) Unmount(ctx context.Context, id string) error {
	err := h.mounts.Unmount(ctx, id, true)
	if errors.Is(err, recovery.ErrNotFound) {
		return nil
	}
	return recoveryError(err)
}

// Fence implements failover.Actions. What can be reached of the VMs is held or shut down first, so that the newest point has all that they wrote; then nothing is taken from there any more.
func (h fencing) Fence(ctx context.Context, r *failover.Record, save func() error, step func(string)) error {
	e, err := h.find(r.Group)
	if err != nil {
		return err
	}
	release, err := e.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	g, err := e.usable()
	if err != nil {
		return err
	}
	group := e.record()
	if group.Intent == catalog.IntentFailover {
		return failedOver(group.Name)
	}
	if group.Intent != catalog.IntentStop { // else they are not ours
		for _, m := range group.VMs {
			if err := h.still(ctx, m, group.Agent, r, save, step); err != nil {
				return err
			}
		}
	}
	if r.Planned {
		if err := h.drained(ctx, e, step); err != nil {
			return err
		}
	}
	step("keeping the old site out")
	r.Fenced = true
	if err := save(); err != nil {
		return err
	}
	group.Prior, group.Intent = group.Intent, catalog.IntentFailover
	if err := h.become(ctx, e, group); err != nil {
		return err
	}
	g.Obey(group)
	if group.Agent == "" && group.lives() {
		bounded, cancel := context.WithTimeout(ctx, detachPatience)
		defer cancel()
		if err := g.Pause(bounded); err != nil && ctx.Err() == nil {
			r.Notes = append(r.Notes, fmt.Sprintf("the taps could not be taken away: %v", err))
		}
	}
	if !latest(r.At) {
		return ctx.Err()
	}
	p, err := g.Resolve(journal.Point{}, time.Now())
	r.Seq, r.Time = p.Seq, p.Time
	return errors.Join(err, ctx.Err())
}

// stillPatience bounds what a VM is asked that may be gone with its host.
const stillPatience = 5 * time.Second

// still has a VM stand still where it runs, if it can be reached there; planned, it is shut down before.
func (h fencing) still(ctx context.Context, m catalog.VM, agent string, r *failover.Record, save func() error, step func(string)) error {
	state, err := h.power(ctx, m, agent, "")
	switch {
	case err != nil && r.Planned:
		return fmt.Errorf("shut down VM %s: %w", m.Name, err)
	case err != nil:
		r.Notes = append(r.Notes, fmt.Sprintf("VM %s could not be reached where it was (%v): if it runs there, it goes on, and what it writes stays on its own disks", m.Name, err))
		return ctx.Err()
	case state != vm.StateRunning:
		return nil
	}
	r.Held = append(r.Held, m.Name)
	if err := save(); err != nil {
		return err
	}
	if r.Planned {
		step("shutting down " + m.Name)
		off, err := h.shutDown(ctx, m, agent, r.Wait)
		if err != nil || off {
			return err
		}
		r.Notes = append(r.Notes, fmt.Sprintf("the guest of VM %s did not shut down in %v: it was stopped as by pulling the plug", m.Name, r.Wait))
	} else {
		step("holding " + m.Name)
		r.Notes = append(r.Notes, fmt.Sprintf("VM %s ran where it was, and is held there", m.Name))
	}
	_, err = h.power(ctx, m, agent, vm.PowerHold)
	return err
}

// shutDown tells whether the guest did in time.
func (h fencing) shutDown(ctx context.Context, m catalog.VM, agent string, patience time.Duration) (off bool, err error) {
	if _, err := h.power(ctx, m, agent, vm.PowerShutDown); err != nil {
		return false, err
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		state, err := h.power(ctx, m, agent, "")
		if err != nil {
			return false, fmt.Errorf("shut down VM %s: %w", m.Name, err)
		}
		if state == vm.StateShutdown {
			return true, nil
		}
		select {
		case <-tick.C:
		case <-late.C:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// drained returns when a point has all that the VMs wrote, which stand still.
func (h fencing) drained(ctx context.Context, e *entry, step func(string)) error {
	want := journal.Seq(e.status().LastSeq)
	if g, ok := e.current().(*agentGroup); ok {
		var last host.Fresh
		if err := g.ask(ctx, host.CallFresh, host.ID{ID: g.id}, &last); err != nil {
			return err
		}
		want = last.Seq
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		st := e.status()
		if journal.Seq(st.DurableSeq) >= want {
			return nil
		}
		step(fmt.Sprintf("waiting for the last %d writes", uint64(want)-st.DurableSeq))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// power does something with a VM, or nothing, and asks how it is. It is vm.ErrGone when the VM has ended.
func (h *Hub) power(ctx context.Context, m catalog.VM, agent string, what vm.PowerAction) (vm.RunState, error) {
	ctx, cancel := context.WithTimeout(ctx, stillPatience)
	defer cancel()
	if agent == "" {
		v, err := h.vms.Get(ctx, m.QMP)
		if err != nil {
			return "", host.VMError(m.Name, m.QMP, err)
		}
		defer v.Close()
		return host.DoPower(ctx, v, what)
	}
	var p host.Powered
	err := h.agents.call(ctx, agent, host.CallPower, host.Power{VM: host.VM{Name: m.Name, QMP: m.QMP, NBDServer: m.NBDServer, UUID: m.UUID}, Do: what}, &p)
	if err == nil && p.Gone {
		err = vm.ErrGone
	}
	return p.State, host.Unwrap(err)
}

// Release implements failover.Actions.
func (h fencing) Release(ctx context.Context, r *failover.Record) error {
	e, err := h.find(r.Group)
	if err != nil {
		return nil // it was removed
	}
	release, err := e.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	group := e.record()
	if r.Fenced && group.Intent == catalog.IntentFailover {
		group.Intent, group.Prior = group.Prior, ""
		if err := h.become(ctx, e, group); err != nil {
			return err
		}
	}
	if g := e.current(); g != nil {
		g.Obey(group)
	}
	var errs []error
	for _, m := range group.VMs {
		if !slices.Contains(r.Held, m.Name) {
			continue
		}
		_, err := h.power(ctx, m, group.Agent, vm.PowerGoOn)
		if errors.Is(err, vm.ErrGone) {
			e.logger.Warn("a VM that was held for a failover has ended", "vm", m.Name)
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("let VM %s go on: %w", m.Name, err))
		}
	}
	return errors.Join(errs...)
}

// Adopt implements failover.Actions: the group goes on with the VMs that run here, in a new epoch. Those that it had are ended, if they were held.
func (h fencing) Adopt(ctx context.Context, r *failover.Record) error {
	e, err := h.find(r.Group)
	if err != nil {
		return err
	}
	release, err := e.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	was := e.record()
	if was.Intent != catalog.IntentFailover {
		return nil // done before a kill
	}
	for _, m := range was.VMs {
		if !slices.Contains(r.Held, m.Name) {
			continue
		}
		if _, err := h.power(ctx, m, was.Agent, vm.PowerEnd); err != nil && !errors.Is(err, vm.ErrGone) {
			e.logger.Warn("a VM that failed over could not be ended where it was held", "vm", m.Name, "err", err)
		}
	}
	now := was
	now.Agent, now.Intent, now.Prior, now.VMs, now.Volumes = "", catalog.IntentProtect, "", nil, slices.Clone(was.Volumes)
	for _, v := range r.VMs {
		i := slices.IndexFunc(was.VMs, func(m catalog.VM) bool { return m.Name == v.Name })
		if i < 0 {
			continue
		}
		now.VMs = append(now.VMs, catalog.VM{Name: v.Name, QMP: v.QMP(), UUID: was.VMs[i].UUID, Created: time.Now().UTC()})
		for _, vol := range v.Volumes {
			for k := range now.Volumes {
				if now.Volumes[k].Name == vol.Name {
					now.Volumes[k].Node = vol.On
				}
			}
		}
	}
	if err := h.rebind(ctx, e, now); err != nil {
		return err
	}
	if was.Agent != "" {
		h.left(ctx, was.Agent, was)
	}
	return nil
}

// rebind has a group go on with other VMs. The caller holds the entry.
func (h *Hub) rebind(ctx context.Context, e *entry, now groupRecord) error {
	g, err := e.usable()
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, detachPatience)
	defer cancel()
	if e.ended != nil {
		if err := g.Leave(bounded); err != nil {
			return fmt.Errorf("leave the VMs where they were: %w", err)
		}
		select {
		case <-e.ended:
		case <-bounded.Done():
			return bounded.Err()
		}
	}
	next, err := g.Rebind(h.groupDeps(e.dir, now, false))
	if err != nil {
		return err
	}
	if err := h.become(ctx, e, now); err != nil {
		return err
	}
	e.setGroup(next)
	e.setRunErr(nil)
	h.noteVMs(ctx, e, now.VMs)
	if now.lives() {
		e.live()
	}
	return nil
}

// noteVMs lets the catalog know where a group's VMs are.
func (h *Hub) noteVMs(ctx context.Context, e *entry, vms []catalog.VM) {
	ctx, cancel := context.WithTimeout(ctx, vmPatience)
	defer cancel()
	var err error
	for _, m := range vms {
		if m.Agent != "" {
			continue
		}
		rerr := h.store.RemoveVM(ctx, m.Name)
		if errors.Is(rerr, catalog.ErrNotFound) {
			rerr = nil
		}
		err = errors.Join(err, rerr, h.store.AddVM(ctx, m))
	}
	if err != nil {
		e.logger.Warn("tell the catalog where a group's VMs are; the record beside the journal counts", "err", err)
	}
}
