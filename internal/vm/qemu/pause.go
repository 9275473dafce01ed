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
		v.owesResume.Store(true)
		return v.settlePause(ctx)
	}
	err = v.do(ctx, "object-add", args{"qom-type": "throttle-group", "id": pauseMarker}, nil)
	if qemuSays(err, "") {
		return nil, err // another connection's attach has the VM paused
	}
	if err == nil {
		err = v.do(ctx, "stop", nil, nil)
	}
	if err != nil { // either command may run late
		return nil, errors.Join(err, resume())
	}
	return resume, nil
}

func (v *VM) endPause(ctx context.Context) error {
	if err := v.do(ctx, "cont", nil, nil); err != nil {
		return fmt.Errorf("let the VM go on: %w", err)
	}
	err := v.do(ctx, "object-del", args{"id": pauseMarker}, nil)
	if err != nil && !qemuSays(err, "not found") {
		return fmt.Errorf("remove the pause marker: %w", err)
	}
	return nil
}

// settlePause ends a pause whose end did not get through to QEMU, as when it
// hung for longer than RollbackTimeout. Every call that may come next asks.
func (v *VM) settlePause(ctx context.Context) error {
	if !v.owesResume.Load() {
		return nil
	}
	if err := v.endForgottenPause(ctx); err != nil {
		return err
	}
	v.owesResume.Store(false)
	return nil
}

// endForgottenPause lets a VM go on that we paused, maybe in an earlier life;
// one without our marker is left alone.
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
			return v.endPause(ctx)
		}
	}
	return nil
}
