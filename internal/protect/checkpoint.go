package protect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// Wish is a checkpoint to be made.
type Wish struct {
	Name string // one is made from the time if empty
	// Whole says when the newest point was the newest state of the group; if it does
	// not know, Now is taken.
	Whole func(*journal.Timeline) time.Time
	Now   time.Time
	// Quiet is the point to take instead of the newest one, if any.
	Quiet *Quiet
	// Reason is why there is no Quiet, though one was asked for.
	Reason string
}

// Quiet is the last seq before a moment at which the file systems of all guests of
// a group were frozen.
type Quiet struct {
	Seq journal.Seq
	At  time.Time
}

// maxReason bounds a reason in the journal, bytes.
const maxReason = 500

// Give makes a checkpoint, durably at return.
func (n *Names) Give(w Wish) (journal.Checkpoint, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	durable, taken := n.log.DurableTimeline(), n.log.Timeline().Checkpoints
	seq, ok := durable.Newest()
	if !ok {
		return journal.Checkpoint{}, ErrNoPoint
	}
	c := journal.Checkpoint{Name: w.Name, Kind: "named", Consistency: journal.CrashConsistent, Reason: w.Reason}
	if len(c.Reason) > maxReason {
		c.Reason = strings.ToValidUTF8(c.Reason[:maxReason], "") + "…"
	}
	at := w.Now
	if w.Quiet != nil && durable.IsPoint(w.Quiet.Seq) {
		seq, at, c.Consistency = w.Quiet.Seq, w.Quiet.At, journal.ApplicationConsistent
	} else if whole := w.Whole(&durable); !whole.IsZero() {
		at = whole
	}
	c.Seq, c.Time = seq, at.UnixNano()
	if c.Name == "" {
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

// Free is ErrExists when a name is taken.
func (n *Names) Free(name string) error {
	tl := n.log.Timeline()
	if slices.ContainsFunc(tl.Checkpoints, func(o journal.Checkpoint) bool { return o.Name == name }) {
		return fmt.Errorf("checkpoint %s: %w", name, ErrExists)
	}
	return nil
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
// for a fence made after the call, so that what was written before is in it. With
// quiesce above zero the guests' file systems are frozen for a moment, and the point
// is of that moment; if that does not work within the time, it is the newest one, and
// Reason says why. Durable at return.
func (g *Group) Checkpoint(ctx context.Context, name string, quiesce time.Duration) (journal.Checkpoint, error) {
	if err := g.names.Free(name); err != nil {
		return journal.Checkpoint{}, err // before a guest is frozen for nothing
	}
	w := Wish{Name: name, Whole: func(durable *journal.Timeline) time.Time {
		_, at := g.point(durable, g.log.Appended())
		return at
	}}
	if quiesce > 0 {
		q, err := g.Quiesce(ctx, quiesce)
		if err == nil {
			err = AwaitPoint(ctx, g.log, q.Seq, g.cfg.SyncEvery)
		}
		if ctx.Err() != nil {
			return journal.Checkpoint{}, context.Cause(ctx)
		}
		if w.Quiet = &q; err != nil {
			w.Quiet, w.Reason = nil, err.Error()
		}
	}
	if w.Quiet == nil {
		if err := g.freshPoint(ctx); err != nil {
			return journal.Checkpoint{}, err
		}
	}
	w.Now = g.deps.Now()
	return g.names.Give(w)
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
