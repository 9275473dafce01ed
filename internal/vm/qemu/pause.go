package qemu

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/qmp"
)

// pauseMarker is an object that says that it was us who paused the VM, for
// the case that we are killed before it goes on. A throttle group that nobody
// is in does nothing.
const pauseMarker = "rephub-paused"

// pause stops a running VM; the function that it returns lets it go on, and
// does so although ctx may have ended. A VM that does not run is left alone.
func (v *VM) pause(ctx context.Context) (resume func() error, err error) {
	state, err := v.RunState(ctx)
	if err != nil {
		return nil, err
	}
	if state != vm.StateRunning {
		return func() error { return nil }, nil
	}
	resume = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), v.cfg.RollbackTimeout)
		defer cancel()
		return v.endPause(ctx)
	}
	if err := v.do(ctx, "object-add", args{"qom-type": "throttle-group", "id": pauseMarker}, nil); err != nil {
		return nil, err
	}
	if err := v.do(ctx, "stop", nil, nil); err != nil {
		if err2 := resume(); err2 != nil {
			v.cfg.Logger.Error("let the VM go on", "err", err2)
		}
		return nil, err
	}
	return resume, nil
}

func (v *VM) endPause(ctx context.Context) error {
	if err := v.do(ctx, "cont", nil, nil); err != nil {
		return fmt.Errorf("let the VM go on: %w", err)
	}
	if err := v.do(ctx, "object-del", args{"id": pauseMarker}, nil); err != nil {
		return fmt.Errorf("remove the pause marker: %w", err)
	}
	return nil
}

// endForgottenPause lets a VM go on that we paused in an earlier life.
func (v *VM) endForgottenPause(ctx context.Context) error {
	var objects []struct {
		Name string `json:"name"`
	}
	err := v.do(ctx, "qom-list", args{"path": "/objects"}, &objects)
	if errors.Is(err, qmp.DeviceNotFound) {
		return nil // there never was an object
	}
	if err != nil {
		return err
	}
	for _, o := range objects {
		if strings.TrimSuffix(o.Name, "/") == pauseMarker {
			v.cfg.Logger.Warn("the VM was left paused by an attach that was cut off; it goes on", "vm", v.id.Name)
			return v.endPause(ctx)
		}
	}
	return nil
}
