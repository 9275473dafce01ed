package protect

import (
	"context"
	"errors"
	"fmt"
	gosync "sync"

	"github.com/rephub/rephub/internal/keeper"
	"github.com/rephub/rephub/internal/tap"
	"github.com/rephub/rephub/journal"
)

var (
	errGoal    = errors.New("the group is to do something else now")
	errStopped = errors.New("the group's protection was stopped")
)

// Run keeps the group as its goal says until ctx ends or the group is stopped
// (then it returns nil). When ctx ends, taps and keeper stay as they are: the
// ring holds what the next Run will drain.
func (g *Group) Run(ctx context.Context) error {
	var helpers gosync.WaitGroup
	flush, stop := context.WithCancel(context.WithoutCancel(ctx))
	helpers.Go(func() { g.flusher(flush) })
	defer func() {
		stop()
		helpers.Wait()
		if err := g.flush(); err != nil {
			g.logger.Error("make the journal durable at the end", "err", err)
		}
	}()
	for ctx.Err() == nil {
		err := g.withKeeper(ctx)
		if errors.Is(err, errStopped) {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			g.report(err)
			sleep(ctx, g.cfg.Retry)
		}
	}
	return nil
}

// report says in status and log that something does not work.
func (g *Group) report(err error) {
	if g.status.fail(err) {
		g.logger.Warn("not protected", "err", err)
	}
}

// withKeeper works with one keeper until it is gone or ctx ends.
func (g *Group) withKeeper(ctx context.Context) error {
	k, err := g.deps.Keeper(ctx)
	if err != nil {
		return fmt.Errorf("reach the tap keeper: %w", err)
	}
	l, err := g.openLink(ctx, k)
	if err != nil {
		return g.renewed(ctx, k, err)
	}
	work, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-k.Done():
			cancel(fmt.Errorf("the tap keeper is gone: %w", k.Err()))
		case <-l.drained:
			cancel(fmt.Errorf("writes cannot be taken from the keeper: %w", l.err))
		case <-work.Done():
		}
	}()
	err = g.live(work, l)
	if ctx.Err() != nil || errors.Is(err, errStopped) {
		l.close(false)
		return err
	}
	// What the keeper had answered and not handed over is still in the ring's
	// memory, and is of use; after it comes nothing that can be trusted.
	if work.Err() == nil {
		cancel(err)
	}
	why := context.Cause(work)
	l.close(!errors.Is(why, tap.ErrCorrupt))
	if cut := g.cut(why.Error()); cut != nil {
		return cut
	}
	return g.renewed(ctx, k, why)
}

// renewed has the keeper give up a ring that is corrupt, so that the next one can be
// opened under the same taps. Whoever wrote nonsense there may have touched data
// that is in the journal already, so all is compared.
func (g *Group) renewed(ctx context.Context, k *keeper.Client, why error) error {
	if !errors.Is(why, tap.ErrCorrupt) || ctx.Err() != nil {
		return why
	}
	for _, v := range g.spec.Volumes {
		if err := g.memo.distrust(v.ID); err != nil {
			return errors.Join(why, err)
		}
	}
	ask, cancel := context.WithTimeout(ctx, g.cfg.MonitorTimeout)
	defer cancel()
	return errors.Join(why, k.RenewRing(ask, g.spec.ID.String()))
}

// live does what the goal says, again and again, until the link is of no use any more.
func (g *Group) live(ctx context.Context, l *link) error {
	for ctx.Err() == nil {
		goal, changed := g.goals.get()
		run, cancel := context.WithCancelCause(ctx)
		go func() {
			select {
			case <-changed:
				cancel(errGoal)
			case <-run.Done():
			}
		}()
		var err error
		if goal == GoalProtect {
			err = g.follow(run, l)
		} else {
			err = g.rest(run, l, goal)
		}
		moved := errors.Is(context.Cause(run), errGoal)
		cancel(nil)
		switch {
		case errors.Is(err, errStopped), errors.Is(err, tap.ErrCorrupt):
			return err
		case ctx.Err() != nil || moved:
			continue
		case err != nil:
			g.report(err)
		}
		g.pause(ctx, changed)
	}
	return context.Cause(ctx)
}

// pause waits before the next try, or until the goal changes.
func (g *Group) pause(ctx context.Context, changed <-chan struct{}) {
	wait, cancel := context.WithTimeout(ctx, g.cfg.Retry)
	defer cancel()
	select {
	case <-changed:
	case <-wait.Done():
	}
}

// cut notes that no point is offered beyond the last fence until all is synced again.
func (g *Group) cut(reason string) error {
	tl := g.log.Timeline()
	return g.cutAt(&tl, reason)
}

// cutAt is cut for what the journal said at some time; it is refused when an epoch has begun since.
func (g *Group) cutAt(tl *journal.Timeline, reason string) error {
	if !tl.Attached {
		return nil
	}
	if err := g.stream.control(tl.Epoch, journal.Cut{Seq: tl.LastFence.Seq, Reason: reason}); err != nil {
		return fmt.Errorf("note where the writes were cut: %w", err)
	}
	return nil
}
