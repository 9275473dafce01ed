package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/failover"
	"github.com/rephub/rephub/internal/plan"
	"github.com/rephub/rephub/internal/recovery"
	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/qemu/cmdline"
)

// newFailovers makes the tests; their VMs run on this machine.
func (h *Hub) newFailovers() *failover.Tests {
	return failover.New(failover.Config{
		Dir: h.data.join("run"), Logger: h.cfg.Logger,
		Unmount: func(ctx context.Context, id string) error {
			err := h.mounts.Unmount(ctx, id, true)
			if errors.Is(err, recovery.ErrNotFound) {
				err = nil
			}
			return recoveryError(err)
		},
	})
}

// TestFailover implements api.Service. What cannot be done is told before the task is made.
func (h *Hub) TestFailover(_ context.Context, group string, req api.FailoverRequest) (api.Task, error) {
	e, err := h.findPlan(group)
	if err != nil {
		return api.Task{}, err
	}
	vms, err := e.testVMs()
	if err != nil {
		return api.Task{}, err
	}
	g, point, leave, err := h.use(group, req.At)
	if err != nil {
		return api.Task{}, err
	}
	spec := failover.Spec{ID: recovery.NewID(), Group: group, Seq: point.Seq, Time: point.Time, VMs: vms}
	spec.Mount = func(ctx context.Context) (map[string]string, error) {
		m, err := h.mounts.MountAs(ctx, spec.ID, g, point, true)
		if err != nil {
			return nil, recoveryError(err)
		}
		uris := map[string]string{}
		for _, x := range m.Exports {
			uris[x.Name] = x.URI
		}
		return uris, nil
	}
	t, err := h.tasks.start("failover-test", group, func(ctx context.Context, progress func(api.Progress)) (any, error) {
		defer leave()
		h.beside() // from now on VMs run on this machine
		r, err := h.failovers.Start(ctx, spec, func(step string) { progress(api.Progress{Step: step}) })
		if err != nil {
			return nil, failoverError(group, err)
		}
		return failoverOf(r), nil
	})
	if err != nil {
		leave()
	}
	return t, err
}

// failoverError leaves what has a code as it is. What else goes wrong is for people to mend on this host or in the plan.
func failoverError(group string, err error) error {
	var known *api.Error
	if errors.As(err, &known) || errors.Is(err, context.Canceled) {
		return err
	}
	if errors.Is(err, failover.ErrMemory) {
		return api.Errorf(api.CodeConflict, "%v", err).WithHint("stop other tests (rephub failover list), or give the VMs less: memory in rephub plan edit %s", group)
	}
	return api.Errorf(api.CodeConflict, "%v", err).WithHint("nothing is left of the test; rephub plan show %s tells what the VMs were, rephub plan edit %s changes how they are started", group, group)
}

// testVMs are the group's VMs, as its plan has them for a test.
func (e *entry) testVMs() ([]failover.VM, error) {
	p, r := e.plan.Plan(), e.record()
	s, err := p.Settings()
	for _, wrong := range plan.Errors(err) {
		if !wrong.Gone {
			return nil, api.Errorf(api.CodeConflict, "the recovery plan: %v", wrong).WithHint("rephub plan edit %s", r.Name)
		}
	}
	var vms []failover.VM
	for _, record := range r.VMs {
		c, ok := p.VMs[record.Name]
		switch {
		case !ok:
			return nil, api.Errorf(api.CodeConflict, "nothing is known of VM %s: it could not be asked since it is protected", record.Name).
				WithHint("rephub plan show %s says why; it is asked again every minute", r.Name)
		case c.Domain != "":
			return nil, api.Errorf(api.CodeConflict, "VM %s is a libvirt domain, and only VMs that plain QEMU runs can be started so far", record.Name).
				WithHint("rephub mount %s --writable serves its disks for a domain of your own", r.Name)
		}
		set := s.VMs[record.Name]
		vms = append(vms, failover.VM{
			Name: record.Name, Order: set.Order, Delay: set.Delay, Dir: c.Dir, Memory: cmp.Or(set.Memory, c.Memory),
			Argv: func(runDir string, uris map[string]string) ([]string, []string, error) {
				disks, err := disksOf(&r, record.Name, c.Definition, uris)
				if err != nil {
					return nil, nil, err
				}
				return testArgv(record.Name, runDir, c.Definition, set, s.Networks, disks)
			},
		})
	}
	return vms, nil
}

// disksOf are the disks of a VM that the group has, where they are in a mount. Others are left out; Recover tells.
func disksOf(r *groupRecord, vmName string, d vm.Definition, uris map[string]string) (disks []cmdline.Disk, err error) {
	var missing []string
	for _, disk := range d.Disks {
		v, ok := r.volume(vmName, disk.Name)
		if !ok {
			continue
		}
		uri, ok := uris[v.Name]
		if !ok {
			missing = append(missing, v.Name)
			continue
		}
		disks = append(disks, cmdline.Disk{Name: v.Name, Node: disk.Node, File: disk.File, URI: uri})
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("the point does not have its volumes %s", missing)
	}
	return disks, nil
}

// testArgv is the command line of a VM in a test.
func testArgv(name, runDir string, d vm.Definition, set plan.VM, networks map[string]plan.Network, disks []cmdline.Disk) ([]string, []string, error) {
	line, err := cmdline.Parse(d.Argv)
	if err != nil {
		return nil, nil, err
	}
	var wrong error
	rec := cmdline.Recovery{Name: name + "-test", RunDir: runDir, Disks: disks, CPUs: set.CPUs, Memory: set.Memory, Network: func(n cmdline.NIC) string {
		backend, err := backendOf(networks[plan.NetworkOf(vm.NIC(n))].Test)
		wrong = errors.Join(wrong, err)
		return backend
	}}
	out, notes, err := line.Recover(rec)
	if err = errors.Join(err, wrong); err != nil {
		return nil, nil, err
	}
	var texts []string
	for _, n := range notes {
		texts = append(texts, string(n))
	}
	return out.Argv(), texts, nil
}

// backendOf is a target for QEMU.
func backendOf(t plan.Target) (string, error) {
	switch t.Kind {
	case "":
		return "", nil
	case plan.SameKind:
		return cmdline.Same, nil
	case "bridge":
		return "bridge,br=" + t.Name, nil
	case "tap":
		return "tap,script=no,downscript=no,ifname=" + t.Name, nil
	}
	return "", fmt.Errorf("a VM that plain QEMU runs cannot be connected to the %s: networks are libvirt's", t)
}

// ListFailovers implements api.Service.
func (h *Hub) ListFailovers(context.Context) (api.Failovers, error) {
	l := api.Failovers{Failovers: []api.Failover{}}
	for _, r := range h.failovers.List() {
		l.Failovers = append(l.Failovers, failoverOf(r))
	}
	return l, nil
}

// StopFailover implements api.Service.
func (h *Hub) StopFailover(ctx context.Context, id string) error {
	err := h.failovers.Stop(ctx, id)
	switch {
	case errors.Is(err, failover.ErrNotFound):
		return api.Errorf(api.CodeNotFound, "%v: %s", err, id).WithHint("rephub failover list shows them")
	case errors.Is(err, failover.ErrBusy):
		return api.Errorf(api.CodeConflict, "%v", err).WithHint("try again in a moment, or cancel its task: rephub task list")
	}
	return err
}

func failoverOf(r failover.Record) api.Failover {
	out := api.Failover{ID: r.ID, Group: r.Group, Kind: "test", State: string(r.Phase), Seq: uint64(r.Seq), Time: r.Time, Started: r.Started, RTOSeconds: r.RTO.Seconds(), VMs: []api.FailoverVM{}}
	some := false
	for _, v := range r.VMs {
		alive, err := failover.Alive(v.Dir)
		some = some || alive || err != nil
		out.VMs = append(out.VMs, api.FailoverVM{Name: v.Name, Running: alive, StartedSeconds: v.Started.Seconds(), QMP: v.Dir + "/qmp", Log: v.Dir + "/log", Notes: v.Notes})
	}
	if !some && r.Phase == failover.Running {
		out.State = "ended"
	}
	return out
}
