package protect

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rephub/rephub/internal/tap"
	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/journal"
)

// rest takes the taps away in order and then waits for another goal. For
// GoalStop it also removes the bitmaps, and returns errStopped when all is gone.
func (g *Group) rest(ctx context.Context, l *link, goal Goal) error {
	a := &attachment{g: g, link: l, kick: make(chan struct{}, 1)}
	defer a.close()
	for _, ref := range g.spec.VMs {
		m, err := g.openMachine(ctx, ref)
		switch {
		case err == nil:
			a.machines = append(a.machines, m)
		case errors.Is(err, vm.ErrGone): // it runs no more, and its taps with it
		default:
			return err
		}
	}
	if err := a.detach(ctx, goal); err != nil {
		return err
	}
	if goal == GoalStop {
		if err := a.clear(ctx); err != nil {
			return err
		}
		g.status.set(StateStopped, "protection was stopped; the history is kept", "")
		return errStopped
	}
	g.status.set(StatePaused, "paused: writes are noted by the VM and synced at the resume", "rephub resume "+g.spec.Name)
	<-ctx.Done()
	return context.Cause(ctx)
}

// detach is always: void, fence the cut, note it, soft cancel. Never close first.
func (a *attachment) detach(ctx context.Context, goal Goal) error {
	g := a.g
	ask, cancel := context.WithTimeout(ctx, g.cfg.MonitorTimeout)
	defer cancel()
	cut, err := a.link.keeper.Detach(ask, g.spec.ID.String())
	if err != nil {
		return fmt.Errorf("stop recording: %w", err)
	}
	if err := a.link.emptied(ask, cut); err != nil {
		return fmt.Errorf("take the last writes from the keeper: %w", err)
	}
	tl := g.log.Timeline()
	if a.epoch = tl.Epoch; tl.Attached {
		a.lastFence(ctx)
		if err := g.stream.control(tl.Epoch, journal.Detach{Reason: string(goal)}); err != nil {
			return fmt.Errorf("note the detach: %w", err)
		}
	}
	for _, m := range a.machines {
		long, cancel := context.WithTimeout(ctx, 6*g.cfg.MonitorTimeout)
		err := m.vm.Detach(long, m.taps)
		cancel()
		if err != nil {
			return fmt.Errorf("take the taps of VM %s away: %w", m.ref.Name, err)
		}
		m.taps = nil
	}
	return g.durable(ctx)
}

// clear removes the last traces in the VMs and the ring.
func (a *attachment) clear(ctx context.Context) error {
	if err := a.removeBitmaps(ctx, func(vm.Bitmap) bool { return true }); err != nil {
		return err
	}
	ask, cancel := context.WithTimeout(ctx, a.g.cfg.MonitorTimeout)
	defer cancel()
	for _, m := range a.machines {
		if err := m.vm.StopReader(ask, a.g.readerOf(m.ref)); err != nil {
			a.g.logger.Warn("the VM's NBD server stays", "vm", m.ref.Name, "err", err)
		}
	}
	for {
		err := a.link.keeper.CloseRing(ask, a.g.spec.ID.String())
		if err == nil {
			return nil
		}
		// The VM has let go of its taps; the keeper may not have seen the last of it.
		if !errors.Is(err, tap.ErrBusy) || !sleep(ask, 20*time.Millisecond) {
			return fmt.Errorf("give the ring back: %w", err)
		}
	}
}
