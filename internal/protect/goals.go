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

// Pause takes the taps away in order and keeps the bitmaps, so that snapshots,
// backup and resize can work on the volumes. It returns when that is done.
func (g *Group) Pause(ctx context.Context) error {
	g.goals.set(GoalPause)
	return g.status.wait(ctx, func(s *State) bool { return *s == StatePaused })
}

// Resume attaches again and syncs what changed. It returns when the taps are in place.
func (g *Group) Resume(ctx context.Context) error {
	g.goals.set(GoalProtect)
	return g.status.wait(ctx, func(s *State) bool { return *s == StateSyncing || *s == StateProtected })
}

// Stop takes taps and bitmaps away for good; the history stays. It returns when that is done.
func (g *Group) Stop(ctx context.Context) error {
	g.goals.set(GoalStop)
	return g.status.wait(ctx, func(s *State) bool { return *s == StateStopped })
}
