package qemu

import (
	"context"
	"fmt"
	"time"

	"github.com/rephub/rephub/internal/vm"
)

// Power implements vm.Machine.
func (v *VM) Power(ctx context.Context, what vm.PowerAction) error {
	switch what {
	case vm.PowerShutDown:
		// Before 6.0 there is no way to keep the process after the guest.
		if err := v.do(ctx, "set-action", args{"shutdown": "pause"}, nil); err != nil {
			return fmt.Errorf("keep QEMU when its guest has shut down: %w", err)
		}
		return v.do(ctx, "system_powerdown", nil, nil)
	case vm.PowerHold:
		return v.do(ctx, "stop", nil, nil)
	case vm.PowerGoOn:
		return v.goOn(ctx)
	case vm.PowerEnd:
		err := v.do(ctx, "quit", nil, nil)
		select {
		case <-v.Done(): // it may go before it has answered
			return nil
		default:
			return err
		}
	}
	return fmt.Errorf("no such action: %q", what)
}

// goOn lets a guest run that was held or has shut down. Whether QEMU ended with its guest when it was started we cannot ask; without -no-shutdown, which we are told of, it did.
func (v *VM) goOn(ctx context.Context) error {
	state, err := v.RunState(ctx)
	if err != nil || state == vm.StateRunning {
		return err
	}
	if state == vm.StateShutdown {
		if err := v.do(ctx, "system_reset", nil, nil); err != nil {
			return err
		}
		if err := v.leftShutdown(ctx); err != nil {
			return err
		}
	}
	if err := v.do(ctx, "cont", nil, nil); err != nil {
		return err
	}
	err = v.do(ctx, "set-action", args{"shutdown": "poweroff"}, nil)
	if qemuSays(err, "") { // older than 6.0: it was never set
		return nil
	}
	return err
}

// leftShutdown returns when a reset is done: QEMU answers when it has begun.
func (v *VM) leftShutdown(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if state, err := v.RunState(ctx); err != nil || state != vm.StateShutdown {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("reset the VM: %w", ctx.Err())
		}
	}
}
