package hub

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/failover"
	"github.com/rephub/rephub/internal/plan"
	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/qemu/cmdline"
)

// plannedVMs are the group's VMs, as its plan has them.
func (e *entry) plannedVMs(kind failover.Kind) ([]failover.VM, plan.Settings, error) {
	p, r := e.plan.Plan(), e.record()
	s, err := p.Settings()
	for _, wrong := range plan.Errors(err) {
		if !wrong.Gone {
			return nil, s, api.Errorf(api.CodeConflict, "the recovery plan: %v", wrong).WithHint("rephub plan edit %s", r.Name)
		}
	}
	var vms []failover.VM
	for _, record := range r.VMs {
		c, ok := p.VMs[record.Name]
		switch {
		case !ok:
			return nil, s, api.Errorf(api.CodeConflict, "nothing is known of VM %s: it could not be asked since it is protected", record.Name).
				WithHint("rephub plan show %s says why; it is asked again every minute", r.Name)
		case c.Domain != "":
			return nil, s, api.Errorf(api.CodeConflict, "VM %s is a libvirt domain, and only VMs that plain QEMU runs can be started so far", record.Name).
				WithHint("rephub mount %s --writable serves its disks for a domain of your own", r.Name)
		}
		set := s.VMs[record.Name]
		one := failover.VM{
			Name: record.Name, Order: set.Order, Delay: set.Delay, Dir: c.Dir, Memory: cmp.Or(set.Memory, c.Memory), Before: set.Before, After: set.After,
			Argv: func(p failover.Place) ([]string, []string, error) {
				disks, err := disksOf(&r, record.Name, c.Definition, p)
				if err != nil {
					return nil, nil, err
				}
				return recoveredArgv(kind, record.Name, p, c.Definition, set, s.Networks, disks)
			},
		}
		for _, disk := range c.Disks {
			if v, ok := r.volume(record.Name, disk.Name); ok {
				at, on := cmdline.Nodes(disk.Name, disk.Node)
				one.Volumes = append(one.Volumes, failover.Volume{Name: v.Name, At: at, On: on, Size: disk.Size})
			}
		}
		vms = append(vms, one)
	}
	return vms, s, nil
}

// disksOf are the disks of a VM that the group has, where they are now. Others are left out; Recover tells.
func disksOf(r *groupRecord, vmName string, d vm.Definition, p failover.Place) (disks []cmdline.Disk, err error) {
	var missing []string
	for _, disk := range d.Disks {
		v, ok := r.volume(vmName, disk.Name)
		if !ok {
			continue
		}
		where, ok := p.Volumes[v.Name]
		if !ok {
			missing = append(missing, v.Name)
			continue
		}
		at, on := cmdline.Nodes(disk.Name, disk.Node)
		one := cmdline.Disk{Name: v.Name, Disk: disk.Name, Node: disk.Node, File: disk.File, URI: where, At: at}
		if p.Local {
			one.URI, one.Image, one.At = "", where, on
		}
		disks = append(disks, one)
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("the point does not have its volumes %s", missing)
	}
	return disks, nil
}

// recoveredArgv is the command line of a VM on the hub's host.
func recoveredArgv(kind failover.Kind, name string, p failover.Place, d vm.Definition, set plan.VM, networks map[string]plan.Network, disks []cmdline.Disk) ([]string, []string, error) {
	line, err := cmdline.Parse(d.Argv)
	if err != nil {
		return nil, nil, err
	}
	var wrong error
	rec := cmdline.Recovery{Name: name, RunDir: p.Dir, Disks: disks, CPUs: set.CPUs, Memory: set.Memory, Network: func(n cmdline.NIC) string {
		network := networks[plan.NetworkOf(vm.NIC(n))]
		to := network.Failover
		if kind == failover.Test {
			to = network.Test
		}
		backend, err := backendOf(to)
		wrong = errors.Join(wrong, err)
		return backend
	}}
	if kind == failover.Test {
		rec.Name += "-test"
	}
	if p.Named != "" {
		rec.Monitors = []string{p.Named}
	}
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
