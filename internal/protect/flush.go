package protect

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/journal"
)

// flusher makes the journal durable soon after something was appended, until ctx ends.
func (g *Group) flusher(ctx context.Context) {
	failing := false
	for {
		select {
		case <-g.stream.dirty:
		case <-ctx.Done():
			return
		}
		pause := g.cfg.SyncEvery
		switch err := g.flush(); {
		case err != nil && !failing:
			g.logger.Error("the journal's disk refuses to make writes durable", "err", err)
			fallthrough
		case err != nil:
			failing, pause = true, g.cfg.Retry
			g.stream.touch()
		case failing:
			failing = false
			g.logger.Info("the journal's disk takes writes again")
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// flush makes durable what is appended, and mends the journal when a sync has
// failed: then the tail is written again elsewhere.
func (g *Group) flush() error {
	_, err := g.log.Sync()
	if errors.Is(err, journal.ErrSyncFailed) {
		if err = g.log.Recover(); err == nil {
			_, err = g.log.Sync()
		}
	}
	if errors.Is(err, journal.ErrCorrupt) {
		err = vm.WithHint(err, "restart the hub: it cuts off what the disk has lost and syncs it from the VM")
	}
	return err
}

// durable returns when all that is appended now is durable.
func (g *Group) durable(ctx context.Context) error {
	for {
		err := g.flush()
		if err == nil {
			return g.log.Settled(ctx)
		}
		if ctx.Err() == nil { // else somebody else speaks for the group by now
			g.status.fail(fmt.Errorf("make the journal durable: %w", err))
		}
		if !sleep(ctx, g.cfg.Retry) {
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// sleep waits d and is false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
