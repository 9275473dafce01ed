package protect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rephub/rephub/journal"
)

// ErrNoPoint: the group has no recovery point yet.
var ErrNoPoint = errors.New("the group has no recovery point yet")

// Checkpoint names the newest point. While the group is protected it first waits
// for a fence made after the call, so that what was written before is in it.
// Durable at return.
func (g *Group) Checkpoint(ctx context.Context, name string) (journal.Checkpoint, error) {
	if err := g.freshPoint(ctx); err != nil {
		return journal.Checkpoint{}, err
	}
	g.naming.Lock()
	defer g.naming.Unlock()
	durable, taken := g.log.DurableTimeline(), g.log.Timeline().Checkpoints
	seq, at := g.point(&durable, g.log.Appended())
	if seq == 0 {
		return journal.Checkpoint{}, ErrNoPoint
	}
	if at.IsZero() {
		at = g.deps.Now()
	}
	c := journal.Checkpoint{Name: name, Seq: seq, Kind: "named", Time: at.UnixNano()}
	if name == "" {
		c.Name = "checkpoint-" + at.UTC().Format("20060102T150405.000Z")
	}
	if slices.ContainsFunc(taken, func(o journal.Checkpoint) bool { return o.Name == c.Name }) {
		return journal.Checkpoint{}, fmt.Errorf("checkpoint %s: %w", c.Name, ErrExists)
	}
	if err := g.stream.control(durable.Epoch, c); err != nil {
		return journal.Checkpoint{}, fmt.Errorf("note checkpoint %s: %w", c.Name, err)
	}
	if _, err := g.log.Sync(); err != nil {
		return journal.Checkpoint{}, fmt.Errorf("make checkpoint %s durable: %w", c.Name, err)
	}
	return c, nil
}

// RemoveCheckpoint forgets a checkpoint's name: its point is kept no longer than
// the others. Durable at return.
func (g *Group) RemoveCheckpoint(name string) error {
	g.naming.Lock()
	defer g.naming.Unlock()
	tl := g.log.Timeline()
	if !slices.ContainsFunc(tl.Checkpoints, func(o journal.Checkpoint) bool { return o.Name == name }) {
		return fmt.Errorf("checkpoint %s: %w", name, ErrNoCheckpoint)
	}
	if err := g.stream.control(tl.Epoch, journal.CheckpointRemoved{Name: name}); err != nil {
		return fmt.Errorf("note that checkpoint %s is removed: %w", name, err)
	}
	if _, err := g.log.Sync(); err != nil {
		return fmt.Errorf("make the removal of checkpoint %s durable: %w", name, err)
	}
	return nil
}

// ErrNoCheckpoint: no checkpoint has this name.
var ErrNoCheckpoint = errors.New("there is no checkpoint of this name")

// ErrExists: the name is taken.
var ErrExists = errors.New("there is a checkpoint of this name")

// freshPoint waits for a durable point that holds all that was written before
// the call, while the group is protected.
func (g *Group) freshPoint(ctx context.Context) error {
	want := g.Status().Last
	tick := time.NewTicker(g.cfg.SyncEvery)
	defer tick.Stop()
	for {
		s := g.Status()
		if s.State != StateProtected || s.Durable >= want {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
