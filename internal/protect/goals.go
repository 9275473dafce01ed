package protect

import (
	"context"
	gosync "sync"
)

// goals holds what the user wants and wakes Run when it changes.
type goals struct {
	mu      gosync.Mutex
	goal    Goal
	changed chan struct{} // closed and replaced at every change
}

func newGoals(g Goal) *goals { return &goals{goal: g, changed: make(chan struct{})} }

func (g *goals) get() (Goal, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.goal, g.changed
}

func (g *goals) set(goal Goal) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.goal != goal {
		g.goal = goal
		close(g.changed)
		g.changed = make(chan struct{})
	}
}

// SetGoal changes what the group is meant to do, and does not wait for it.
func (g *Group) SetGoal(goal Goal) {
	if now, _ := g.goals.get(); now != goal && goal == GoalProtect {
		g.status.set(StateDegraded, resuming, "")
	}
	g.goals.set(goal)
}

// Pause takes the taps away in order and keeps the bitmaps, so that snapshots,
// backup and resize can work on the volumes. It returns when that is done.
func (g *Group) Pause(ctx context.Context) error {
	g.goals.set(GoalPause)
	return g.status.wait(ctx, func(s *State) bool { return *s == StatePaused })
}

// Resume attaches again and syncs what changed. It returns when the taps are in
// place. A *NotYetError says why they are not; the group goes on trying.
func (g *Group) Resume(ctx context.Context) error {
	g.status.set(StateDegraded, resuming, "")
	g.goals.set(GoalProtect)
	return g.Started(ctx)
}

const resuming = "the taps are being attached"

// NotYetError: a first try to protect did not work; it is tried again and again.
type NotYetError struct{ Reason, hint string }

func (e *NotYetError) Error() string { return "not protected yet: " + e.Reason }

// Hint says what to do.
func (e *NotYetError) Hint() string {
	if e.hint != "" {
		return e.hint
	}
	return "it is tried again until it works; rephub status shows how it is"
}

// Started returns when the taps are in place, or a *NotYetError when a try to
// attach them has failed.
func (g *Group) Started(ctx context.Context) error {
	var failed *NotYetError
	err := g.status.watch(ctx, func(s *status) bool {
		if s.state == StateDegraded && s.reason != resuming && s.reason != starting {
			failed = &NotYetError{Reason: s.reason, hint: s.hint}
			return true
		}
		return s.state == StateSyncing || s.state == StateProtected
	})
	if err == nil && failed != nil {
		return failed
	}
	return err
}

// Stop takes taps and bitmaps away for good; the history stays. It returns when that is done.
func (g *Group) Stop(ctx context.Context) error {
	g.goals.set(GoalStop)
	return g.status.wait(ctx, func(s *State) bool { return *s == StateStopped })
}
