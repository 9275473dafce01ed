package protect

import (
	"context"
	"errors"
	"fmt"
	"time"

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
	settled, err := a.detach(ctx, goal)
	var late *UnsettledError
	if err != nil && !errors.As(err, &late) {
		return err
	}
	if goal == GoalStop {
		if err := a.clear(ctx); err != nil {
			return err
		}
		g.status.set(StateStopped, "protection was stopped; the history is kept"+late.addition("up to its newest point"), "")
		return errStopped
	}
	paused := func() {
		g.status.set(StatePaused, "paused: writes are noted by the VM and synced at the resume"+late.addition("what it did not take is synced, too"), "rephub resume "+g.spec.Name)
	}
	paused()
	if late != nil {
		select {
		case err := <-settled:
			if late = nil; err != nil {
				return err
			}
			paused()
		case <-ctx.Done():
		}
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// UnsettledError: the taps were taken away though the journal's disk had not taken
// all that they recorded. It is in the VM's bitmaps, and no point has it.
type UnsettledError struct{ Err error }

func (e *UnsettledError) Error() string {
	return "the journal's disk holds things up: " + e.Err.Error()
}
func (e *UnsettledError) Unwrap() error { return e.Err }

// addition is for a status; "" when e is nil.
func (e *UnsettledError) addition(then string) string {
	if e == nil {
		return ""
	}
	return fmt.Sprintf(" (%v; %s)", e, then)
}

// detach is always: void, fence the cut, note it, soft cancel. Never close first. An
// *UnsettledError says that all is done but for the journal, which went on for longer
// than the VM is to wait for a disk; then the channel tells when that is done, too.
func (a *attachment) detach(ctx context.Context, goal Goal) (<-chan error, error) {
	g := a.g
	ask, cancel := context.WithTimeout(ctx, g.cfg.MonitorTimeout)
	defer cancel()
	cut, err := a.link.keeper.Detach(ask, g.spec.ID.String())
	if err != nil {
		return nil, fmt.Errorf("stop recording: %w", err)
	}
	settled := a.settle(ctx, cut, goal)
	patience := time.NewTimer(g.cfg.DiskTimeout)
	defer patience.Stop()
	var late error
	select {
	case err := <-settled:
		if err != nil {
			return nil, err
		}
	case <-patience.C:
		late = a.unsettled()
		g.logger.Warn("the taps are taken away without waiting for the journal", "err", late)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	for _, m := range a.machines {
		long, cancel := context.WithTimeout(ctx, 6*g.cfg.MonitorTimeout)
		err := m.vm.Detach(long, m.taps)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("take the taps of VM %s away: %w", m.ref.Name, err)
		}
	}
	return settled, late
}

// unsettled says what is known of why the journal takes so long.
func (a *attachment) unsettled() error {
	err := errors.New("it does not answer")
	if s := a.link.stalled.Load(); s != nil {
		err = s.err
	}
	return &UnsettledError{err}
}

// settle brings what the ring holds up to cut into the journal and makes that and the
// detach durable, trying again until ctx ends. It is not waited for, as a call of a
// disk that hangs cannot be ended: the link outlives it.
func (a *attachment) settle(ctx context.Context, cut journal.Seq, goal Goal) <-chan error {
	settled := make(chan error, 1)
	l := a.link
	l.users.Go(func() {
		for {
			err := a.noteDetach(ctx, cut, goal)
			select {
			case <-l.drained:
			case <-ctx.Done():
			default:
				if err != nil && sleep(ctx, a.g.cfg.Retry) {
					continue
				}
			}
			settled <- err
			return
		}
	})
	return settled
}

// noteDetach tries once to settle.
func (a *attachment) noteDetach(ctx context.Context, cut journal.Seq, goal Goal) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := a.link.emptied(ctx, cut); err != nil {
		return fmt.Errorf("take the last writes from the keeper: %w", err)
	}
	tl := a.g.log.Timeline()
	if tl.Attached {
		a.lastFence(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := a.noteEnd(ctx, tl.Epoch, goal); err != nil {
			return fmt.Errorf("note the detach: %w", err)
		}
	}
	return a.g.flush()
}

func (a *attachment) noteEnd(ctx context.Context, epoch journal.Epoch, goal Goal) error {
	a.link.settling.Lock() // after a fence that hangs
	defer a.link.settling.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx) // a next attachment may have begun
	}
	return a.g.stream.control(epoch, journal.Detach{Reason: string(goal)})
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
	if err := a.link.keeper.CloseFreedRing(ask, a.g.spec.ID.String()); err != nil {
		return fmt.Errorf("give the ring back: %w", err)
	}
	return nil
}
