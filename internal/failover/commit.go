package failover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// lookEvery is how often timers are looked at, and a commit that is held up is tried again.
	lookEvery = time.Second
	// movesAtOnce bounds the VMs of a failover whose volumes are moved at the same time: they share a disk.
	movesAtOnce = 4
)

// Run commits what Commit and the timers have decided, and goes on with stops that did not get to their end, until ctx ends.
func (f *Failovers) Run(ctx context.Context) {
	var finishing errgroup.Group
	defer func() { _ = finishing.Wait() }()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		for _, r := range f.List() {
			if r.Phase == Running && !r.CommitAt.IsZero() && !time.Now().Before(r.CommitAt) {
				if err := f.Commit(r.ID); err != nil && !errors.Is(err, ErrBusy) {
					f.hold(r.ID, err)
					continue
				}
			}
			if r.Phase == Stopping {
				finishing.Go(func() error { f.stopAgain(ctx, r.ID); return nil })
				continue
			}
			o, r, release, err := f.take(r.ID, func(r *Record) error {
				if r.Phase != Committing {
					return ErrBusy
				}
				return nil
			})
			if err != nil {
				continue
			}
			finishing.Go(func() error {
				defer release()
				if err := f.finish(ctx, o, &r); err != nil && ctx.Err() == nil {
					f.hold(r.ID, err)
				}
				return nil
			})
		}
		select {
		case <-tick.C:
		case <-f.wake:
		case <-ctx.Done():
			return
		}
	}
}

// stopAgain goes on with a stop that did not get to its end.
func (f *Failovers) stopAgain(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, undoPatience)
	defer cancel()
	err := f.Stop(ctx, id)
	if err != nil && !errors.Is(err, ErrBusy) && !errors.Is(err, ErrNotFound) {
		f.hold(id, err)
	}
}

// hold says what holds a failover up, once.
func (f *Failovers) hold(id string, err error) {
	f.mu.Lock()
	o, ok := f.all[id]
	if !ok || o.record.Problem == err.Error() {
		f.mu.Unlock()
		return
	}
	o.record.Problem = err.Error()
	f.mu.Unlock()
	f.cfg.Logger.Error("a failover is held up; it is tried again", "failover", id, "err", err)
}

// Commit makes a failover one that stays: durably so at return. Its volumes move in the background. It may be called twice.
func (f *Failovers) Commit(id string) error {
	if now, err := f.Get(id); err != nil || now.Phase == Committing || now.Phase == Committed {
		return err
	}
	o, r, release, err := f.take(id, func(r *Record) error {
		switch {
		case r.Kind == Test:
			return ErrNotFound
		case r.Phase == Stopping:
			return ErrBusy
		}
		return nil
	})
	if err != nil {
		return err
	}
	defer release()
	if r.Phase == Committing || r.Phase == Committed {
		return nil
	}
	for _, v := range r.VMs {
		alive, err := v.Alive()
		if err != nil {
			return err
		}
		if !alive {
			return fmt.Errorf("VM %s: %w", v.Name, ErrEnded)
		}
	}
	r.Phase = Committing
	if err := f.save(r); err != nil {
		return err
	}
	f.put(o, r)
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return nil
}

// finish does what a commit has left to do: the volumes move here, the VMs become the group's, the mount goes.
func (f *Failovers) finish(ctx context.Context, o *one, r *Record) error {
	moves := make([]*move, len(r.VMs))
	for i := range r.VMs {
		moves[i] = &move{vm: &r.VMs[i]}
	}
	show := func() {
		now := *r
		now.Done, now.Total, now.Problem = 0, 0, ""
		for _, m := range moves {
			done, total := m.progress()
			now.Done, now.Total = now.Done+done, now.Total+total
		}
		f.put(o, now)
	}
	for {
		var moving errgroup.Group
		moving.SetLimit(movesAtOnce)
		left := 0
		for i, m := range moves {
			if m.moved() {
				continue
			}
			left++
			moving.Go(func() error {
				if err := m.advance(ctx); err != nil {
					return fmt.Errorf("move the volumes of VM %s: %w", r.VMs[i].Name, err)
				}
				return nil
			})
		}
		if left == 0 {
			break
		}
		err := moving.Wait()
		if serr := f.save(*r); serr != nil || err != nil {
			return errors.Join(err, serr)
		}
		show()
		select {
		case <-time.After(movePause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := f.cfg.Adopt(ctx, r); err != nil {
		return err
	}
	if err := f.cfg.Unmount(ctx, r.ID); err != nil {
		return err
	}
	r.Phase, r.Problem = Committed, ""
	if err := f.save(*r); err != nil {
		return err
	}
	show()
	return nil
}
