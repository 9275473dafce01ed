package qemu

import (
	"context"
	"fmt"
	"strings"

	"github.com/rephub/rephub/internal/vm"
)

// Definition implements vm.Machine. What both a command line and a domain say in many ways QEMU says in one.
func (v *VM) Definition(ctx context.Context) (d vm.Definition, err error) {
	if d, err = v.mon.Definition(ctx); err != nil {
		return d, fmt.Errorf("read how the VM was started: %w", err)
	}
	d.UUID = v.id.UUID
	var memory struct {
		Base    int64 `json:"base-memory"`
		Plugged int64 `json:"plugged-memory"`
	}
	if err := v.do(ctx, "query-memory-size-summary", nil, &memory); err != nil {
		return d, err
	}
	d.Memory = memory.Base + memory.Plugged
	var cpus []struct{}
	if err := v.do(ctx, "query-cpus-fast", nil, &cpus); err != nil {
		return d, err
	}
	d.CPUs = len(cpus)
	if err := v.do(ctx, "qom-get", args{"path": "/machine", "property": "type"}, &d.Machine); err != nil {
		return d, err
	}
	d.Machine = strings.TrimSuffix(d.Machine, "-machine")
	volumes, err := v.Volumes(ctx)
	for _, vol := range volumes {
		d.Disks = append(d.Disks, vm.Disk{Name: vol.Name, Node: vol.Node, File: vol.File, Size: vol.Size})
	}
	return d, err
}
