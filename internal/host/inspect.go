package host

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/vm"
)

// Inspect asks a VM about itself and fills in what it says.
func Inspect(ctx context.Context, m vm.VM, out *api.VM) error {
	state, err := m.RunState(ctx)
	if err != nil {
		return VMError(out.Name, out.QMP, err)
	}
	volumes, err := m.Volumes(ctx)
	if err != nil {
		return VMError(out.Name, out.QMP, err)
	}
	id := m.Identity()
	out.Reachable, out.RunState, out.Version, out.UUID = true, string(state), id.Version.String(), id.UUID
	for _, v := range volumes {
		out.Volumes = append(out.Volumes, api.VMVolume{
			Name: v.Name, Node: v.Node, Device: v.Device, Size: v.Size, Format: v.Format, File: v.File,
		})
	}
	return nil
}

// VMError says which VM it was, and what can be done.
func VMError(name, qmp string, err error) error {
	e := api.Errorf(api.CodeUnavailable, "VM %s at %s: %v", name, qmp, err)
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return e.WithHint("%s", h.Hint())
	}
	if filepath.IsAbs(qmp) {
		qmp = "unix:" + qmp
	}
	return e.WithHint("QEMU must run on its host with: -qmp %s,server=on,wait=off; one client at a time is served by each socket", qmp)
}

// Define asks a VM what is needed to start it elsewhere.
func Define(ctx context.Context, name, qmp string, m vm.VM) (vm.Definition, error) {
	d, err := m.Definition(ctx)
	if err != nil {
		return d, VMError(name, qmp, err)
	}
	return d, nil
}

// DoPower does something with a VM's guest, unless that is nothing, and asks how it is then.
func DoPower(ctx context.Context, m vm.VM, what vm.PowerAction) (vm.RunState, error) {
	if what != "" {
		if err := m.Power(ctx, what); err != nil || what == vm.PowerEnd {
			return "", err
		}
	}
	return m.RunState(ctx)
}
