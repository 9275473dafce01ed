package protect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	gosync "sync"
	"time"

	"github.com/rephub/rephub/journal"
)

// ErrNoPoint: the group has no recovery point yet.
var ErrNoPoint = errors.New("the group has no recovery point yet")

// Names gives names to the points of a journal. There is one for each journal, so
// that a name is given once.
type Names struct {
	log Journal
	mu  gosync.Mutex
}

// NewNames makes the Names of a journal.
func NewNames(log Journal) *Names { return &Names{log: log} }

// Give names the newest point, durably at return. whole says when the point was
// the newest state of the group; if it does not know, now is taken. Without a
// name, one is made from that time.
func (n *Names) Give(name string, whole func(*journal.Timeline) time.Time, now time.Time) (journal.Checkpoint, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	durable, taken := n.log.DurableTimeline(), n.log.Timeline().Checkpoints
	seq, ok := durable.Newest()
	if !ok {
		return journal.Checkpoint{}, ErrNoPoint
	}
	at := whole(&durable)
	if at.IsZero() {
		at = now
	}
	c := journal.Checkpoint{Name: name, Seq: seq, Kind: "named", Time: at.UnixNano()}
	if name == "" {
		c.Name = "checkpoint-" + at.UTC().Format("20060102T150405.000Z")
	}
	if slices.ContainsFunc(taken, func(o journal.Checkpoint) bool { return o.Name == c.Name }) {
		return journal.Checkpoint{}, fmt.Errorf("checkpoint %s: %w", c.Name, ErrExists)
	}
	if err := n.log.AppendControl(durable.Epoch, c); err != nil {
		return journal.Checkpoint{}, fmt.Errorf("note checkpoint %s: %w", c.Name, err)
	}
	if _, err := n.log.Sync(); err != nil {
		return journal.Checkpoint{}, fmt.Errorf("make checkpoint %s durable: %w", c.Name, err)
	}
	return c, nil
}

// Take forgets a checkpoint's name: its point is kept no longer than the others.
// Durable at return.
func (n *Names) Take(name string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	tl := n.log.Timeline()
	if !slices.ContainsFunc(tl.Checkpoints, func(o journal.Checkpoint) bool { return o.Name == name }) {
		return fmt.Errorf("checkpoint %s: %w", name, ErrNoCheckpoint)
	}
	if err := n.log.AppendControl(tl.Epoch, journal.CheckpointRemoved{Name: name}); err != nil {
		return fmt.Errorf("note that checkpoint %s is removed: %w", name, err)
	}
	if _, err := n.log.Sync(); err != nil {
		return fmt.Errorf("make the removal of checkpoint %s durable: %w", name, err)
	}
	return nil
}

// Checkpoint names the newest point. While the group is protected it first waits
// for a fence made after the call, so that what was written before is in it.
// Durable at return.
func (g *Group) Checkpoint(ctx context.Context, name string) (journal.Checkpoint, error) {
	if err := g.freshPoint(ctx); err != nil {
		return journal.Checkpoint{}, err
	}
	whole := func(durable *journal.Timeline) time.Time {
		_, at := g.point(durable, g.log.Appended())
		return at
	}
	return g.names.Give(name, whole, g.deps.Now())
}

// RemoveCheckpoint forgets a checkpoint's name, see Names.
func (g *Group) RemoveCheckpoint(name string) error { return g.names.Take(name) }

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
