package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/discover"
	"github.com/rephub/rephub/internal/vm/libvirt"
	"github.com/rephub/rephub/internal/vm/qemu"
)

// vmPatience bounds how long a VM may take to tell about itself.
const vmPatience = 5 * time.Second

// machines are the VMs of this host, as they were found last.
type machines struct {
	pool *vm.Pool

	mu    sync.Mutex
	found []discover.Found
	known map[string]host.VM // those that groups have, where they once were
}

func newMachines() *machines {
	return &machines{pool: vm.NewPool(openMonitor), known: map[string]host.VM{}}
}

// openMonitor connects to a VM's monitor: its QMP socket, or by way of libvirt.
func openMonitor(ctx context.Context, address string) (m vm.VM, err error) {
	if uri, domain, ok := libvirt.ParseAddress(address); ok {
		m, err = libvirt.Open(ctx, uri, domain, qemu.Config{})
	} else {
		m, err = qemu.Open(ctx, address, qemu.Config{})
	}
	if err != nil {
		return nil, err // not a nil pointer in m
	}
	return m, nil
}

// set takes what was found.
func (m *machines) set(found []discover.Found) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.found = found
}

// remember keeps where a group's VMs are, also when they are not found any more.
func (m *machines) remember(vms []host.VM) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range vms {
		if v.QMP != "" { // a hub that has lost its record knows the name only
			m.known[v.Name] = v
		}
	}
}

// list is for the hub.
func (m *machines) list() []host.VM {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]host.VM, len(m.found))
	for i, f := range m.found {
		out[i] = host.VM{Name: f.Name, QMP: f.QMP, NBDServer: f.NBDServer, Reason: f.Reason}
	}
	return out
}

// find says where a VM is, or was when its group was made.
func (m *machines) find(name string) (host.VM, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.found, func(f discover.Found) bool { return f.Name == name && f.Reason == "" })
	if i >= 0 {
		f := m.found[i]
		return host.VM{Name: f.Name, QMP: f.QMP, NBDServer: f.NBDServer}, true
	}
	v, ok := m.known[name]
	return v, ok
}

// ref is how protect refers to a VM; where it is, is asked at every open.
func (m *machines) ref(name string) protect.VMRef {
	v, _ := m.find(name)
	return protect.VMRef{Name: name, QMP: v.QMP, NBDServer: v.NBDServer}
}

// open gives a share of the connection to a VM's monitor. It must be the VM that was
// protected: another one that has got its name, or its socket, is not. vm.ErrGone if
// there is only that one.
func (m *machines) open(ctx context.Context, was host.VM) (vm.VM, error) {
	v, ok := m.find(was.Name)
	if !ok {
		return nil, vm.WithHint(fmt.Errorf("no VM %s is found on this host", was.Name), "rephub vm list shows those that are; see the agent's --qmp-glob and --libvirt")
	}
	c, err := m.pool.Get(ctx, v.QMP)
	if err == nil && !isVM(c, was) && was.QMP != "" && was.QMP != v.QMP {
		_ = c.Close() // the name went to another one, which does not end this one
		c, err = m.pool.Get(ctx, was.QMP)
	}
	if err != nil {
		return nil, err
	}
	if !isVM(c, was) {
		is := c.Identity().UUID
		_ = c.Close()
		return nil, vm.WithHint(fmt.Errorf("the VM %s is another one than the one that was protected: its UUID is %q and not %s (%w)", was.Name, is, was.UUID, vm.ErrGone),
			"give one of the two another name; if it took the other's place, unprotect the group and protect the VM anew")
	}
	return c, nil
}

// isVM tells whether the VM is the one that was protected, as far as that is known.
func isVM(c vm.VM, was host.VM) bool { return was.UUID == "" || c.Identity().UUID == was.UUID }

// inspect asks a VM about itself.
func (m *machines) inspect(ctx context.Context, name string) (api.VM, error) {
	v, ok := m.find(name)
	out := api.VM{VMSpec: api.VMSpec{Name: name, QMP: v.QMP, NBDServer: v.NBDServer}, Volumes: []api.VMVolume{}}
	if !ok {
		return out, api.Errorf(api.CodeNotFound, "no VM %s is found on this host", name).WithHint("rephub vm list shows those that are")
	}
	ctx, cancel := context.WithTimeout(ctx, vmPatience)
	defer cancel()
	c, err := m.pool.Get(ctx, v.QMP)
	if err != nil {
		return out, host.VMError(name, v.QMP, err)
	}
	defer c.Close()
	return out, host.Inspect(ctx, c, &out)
}

// definition asks a VM what is needed to start it elsewhere.
func (m *machines) definition(ctx context.Context, was host.VM) (vm.Definition, error) {
	ctx, cancel := context.WithTimeout(ctx, vmPatience)
	defer cancel()
	c, err := m.open(ctx, was)
	if err != nil {
		return vm.Definition{}, host.VMError(was.Name, was.QMP, err)
	}
	defer c.Close()
	return host.Define(ctx, was.Name, was.QMP, c)
}

// power does something with a VM's guest.
func (m *machines) power(ctx context.Context, p host.Power) (out host.Powered, err error) {
	ctx, cancel := context.WithTimeout(ctx, vmPatience)
	defer cancel()
	c, err := m.open(ctx, p.VM)
	if err == nil {
		defer c.Close()
		out.State, err = host.DoPower(ctx, c, p.Do)
	}
	if errors.Is(err, vm.ErrGone) {
		return host.Powered{Gone: true}, nil
	}
	if err != nil {
		err = host.VMError(p.VM.Name, p.VM.QMP, err)
	}
	return out, err
}
