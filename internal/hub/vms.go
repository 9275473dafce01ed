package hub

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/qemu"
	"github.com/rephub/rephub/qmp"
)

// vmPatience bounds how long a VM may take to tell about itself.
const vmPatience = 5 * time.Second

// AddVM implements api.Service. The VM must answer, so that a wrong path is
// noticed here.
func (h *Hub) AddVM(ctx context.Context, spec api.VMSpec) (api.VM, error) {
	if err := checkName("VM", spec.Name); err != nil {
		return api.VM{}, err
	}
	var err error
	if spec.QMP, err = monitorAddress(spec.QMP); err != nil {
		return api.VM{}, err
	}
	if spec.NBDServer != "" {
		if _, err := api.ParseAddress(spec.NBDServer); err != nil {
			return api.VM{}, err
		}
	}
	switch _, err := h.store.VM(ctx, spec.Name); {
	case err == nil:
		return api.VM{}, api.Errorf(api.CodeConflict, "there is a VM %s already", spec.Name).
			WithHint("choose another name, or rephub vm remove %s first", spec.Name)
	case !errors.Is(err, catalog.ErrNotFound):
		return api.VM{}, catalogError(err)
	}
	record := catalog.VM{Name: spec.Name, QMP: spec.QMP, NBDServer: spec.NBDServer, Created: time.Now().UTC()}
	seen, err := h.inspect(ctx, record)
	if err != nil {
		return api.VM{}, err
	}
	if err := h.store.AddVM(ctx, record); err != nil {
		return api.VM{}, catalogError(err)
	}
	return seen, nil
}

// monitorAddress is the one form in which a monitor's address is kept: the path
// of a unix socket, or tcp:HOST:PORT.
func monitorAddress(s string) (string, error) {
	network, address, err := qmp.ParseAddress(s)
	switch {
	case err == nil && network == "tcp":
		return "tcp:" + address, nil
	case err == nil && filepath.IsAbs(address):
		return filepath.Clean(address), nil
	}
	return "", api.Errorf(api.CodeInvalid, "the QMP address %q is not an absolute path", s).
		WithHint("write /PATH, unix:/PATH or tcp:HOST:PORT")
}

// ListVMs implements api.Service. All VMs are asked at once; one that does not
// answer is listed with the reason.
func (h *Hub) ListVMs(ctx context.Context) (api.VMs, error) {
	records, err := h.store.VMs(ctx)
	if err != nil {
		return api.VMs{}, catalogError(err)
	}
	agents, _ := h.agentVMs(ctx)
	records = append(records, agents...)
	l := api.VMs{VMs: make([]api.VM, len(records))}
	var wg sync.WaitGroup
	for i, r := range records {
		wg.Go(func() {
			seen, err := h.inspect(ctx, r)
			if err != nil {
				seen.Reason = err.Error()
			}
			l.VMs[i] = seen
		})
	}
	wg.Wait()
	return l, nil
}

// RemoveVM implements api.Service.
func (h *Hub) RemoveVM(ctx context.Context, name string) error {
	if g := h.groupOf(name, ""); g != "" {
		return api.Errorf(api.CodeConflict, "VM %s is protected by group %s", name, g).
			WithHint("rephub unprotect %s first", g)
	}
	err := h.store.RemoveVM(ctx, name)
	if errors.Is(err, catalog.ErrNotFound) {
		return noVM(name)
	}
	return catalogError(err)
}

// findVM finds a VM that was added, or that an agent has found.
func (h *Hub) findVM(ctx context.Context, name string) (catalog.VM, error) {
	record, err := h.store.VM(ctx, name)
	if err == nil {
		return record, nil
	}
	if !errors.Is(err, catalog.ErrNotFound) {
		return catalog.VM{}, catalogError(err)
	}
	var found []catalog.VM
	agents, _ := h.agentVMs(ctx)
	for _, r := range agents {
		if r.Name == name {
			found = append(found, r)
		}
	}
	switch len(found) {
	case 0:
		return catalog.VM{}, noVM(name)
	case 1:
		return found[0], nil
	}
	return catalog.VM{}, api.Errorf(api.CodeConflict, "there is a VM %s on %s and on %s", name, h.agents.name(ctx, found[0].Agent), h.agents.name(ctx, found[1].Agent)).
		WithHint("VMs are named after their QMP sockets: give one of them another name")
}

func noVM(name string) error {
	return api.Errorf(api.CodeNotFound, "no such VM: %s", name).WithHint("rephub vm list shows them; rephub vm add adds one")
}

// groupOf names a group that protects a VM, or one volume of it; "" for none.
func (h *Hub) groupOf(vmName, disk string) string {
	for _, e := range h.entries() {
		r := e.record()
		if r.Intent == catalog.IntentStop {
			continue
		}
		for _, v := range r.Volumes {
			if v.VM == vmName && (disk == "" || v.Disk == disk) {
				return r.Name
			}
		}
	}
	return ""
}

// inspect asks a VM about itself. What it returns with an error is what is
// known without the VM.
func (h *Hub) inspect(ctx context.Context, r catalog.VM) (api.VM, error) {
	out := api.VM{
		VMSpec: api.VMSpec{Name: r.Name, QMP: r.QMP, NBDServer: r.NBDServer}, Group: h.groupOf(r.Name, ""), Volumes: []api.VMVolume{},
	}
	ctx, cancel := context.WithTimeout(ctx, vmPatience)
	defer cancel()
	if err := h.look(ctx, r, &out); err != nil {
		return out, err
	}
	for i := range out.Volumes {
		out.Volumes[i].Protected = h.groupOf(r.Name, out.Volumes[i].Name) != ""
	}
	return out, nil
}

// look asks a VM about itself, here or through its agent.
func (h *Hub) look(ctx context.Context, r catalog.VM, out *api.VM) error {
	if r.Agent == "" {
		m, err := h.vms.Get(ctx, r.QMP)
		if err != nil {
			return host.VMError(r.Name, r.QMP, err)
		}
		defer m.Close()
		return host.Inspect(ctx, m, out)
	}
	out.Agent = h.agents.name(ctx, r.Agent)
	var seen api.VM
	if err := h.agents.call(ctx, r.Agent, host.CallInspect, host.Name{Name: r.Name}, &seen); err != nil {
		return host.Unwrap(err)
	}
	out.Reachable, out.RunState, out.Version, out.UUID, out.Volumes = seen.Reachable, seen.RunState, seen.Version, seen.UUID, seen.Volumes
	return nil
}

// openMonitor connects to a VM's monitor.
func openMonitor(ctx context.Context, address string) (vm.VM, error) {
	m, err := qemu.Open(ctx, address, qemu.Config{})
	if err != nil {
		return nil, err
	}
	return m, nil
}
