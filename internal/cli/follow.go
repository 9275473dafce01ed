package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/rephub/rephub/internal/api"
)

// onInterrupt says what becomes of a task when its command is interrupted.
type onInterrupt bool

const (
	goesOn    onInterrupt = false
	cancelled onInterrupt = true
)

// follow shows a task's progress until it ends; a failed task's error is
// returned.
func (a *app) follow(ctx context.Context, c *api.Client, t api.Task, fate onInterrupt) (api.Task, error) {
	bar := a.newBar()
	defer bar.end()
	for !t.Finished() {
		bar.show(t.Kind, t.Progress)
		next, err := c.Task(ctx, t.ID, t.Revision)
		if ctx.Err() != nil {
			return t, a.interrupted(ctx, c, t, fate)
		}
		if err != nil {
			return t, fmt.Errorf("follow task %s: %w", t.ID, err)
		}
		t = next
	}
	bar.show(t.Kind, t.Progress)
	if t.Error != nil {
		return t, t.Error
	}
	return t, nil
}

// interrupted tells what becomes of the task, or cancels it.
func (a *app) interrupted(ctx context.Context, c *api.Client, t api.Task, fate onInterrupt) error {
	if fate == goesOn {
		return withHint(interruptedError{"task " + t.ID + " goes on in the hub"},
			"rephub task cancel "+t.ID+" ends it, rephub status shows how it is")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if _, err := c.CancelTask(ctx, t.ID); err != nil {
		return fmt.Errorf("cancel task %s: %w", t.ID, err)
	}
	return interruptedError{"task " + t.ID + " was cancelled"}
}

// waitInterval is how often it is asked whether a group is protected: often
// enough that nobody waits for the question.
const waitInterval = 100 * time.Millisecond

// waitProtected shows a group's sync until it is protected. A degraded group
// may still get there; a stopped or paused one does not.
func (a *app) waitProtected(ctx context.Context, c *api.Client, group string) error {
	bar := a.newBar()
	defer bar.end()
	tick := time.NewTicker(waitInterval)
	defer tick.Stop()
	for {
		st, err := c.Status(ctx, group)
		if ctx.Err() != nil {
			return withHint(interruptedError{"group " + group + " goes on in the hub"},
				"rephub status "+group+" shows how it is")
		}
		if err != nil {
			return err
		}
		if len(st.Groups) != 1 {
			return api.Errorf(api.CodeNotFound, "no such group: %s", group)
		}
		g := &st.Groups[0]
		switch g.State {
		case api.StateProtected:
			bar.end()
			return a.print(st, func(t *table) { groupsTable(t, st.Groups) })
		case api.StateStopped, api.StatePaused, api.StateFailedOver:
			return withHint(fmt.Errorf("group %s is %s: %s", group, g.State, dash(g.Reason)), hintOr(g.Hint, "see rephub status "+group))
		}
		bar.show(group, syncTotals(g))
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func hintOr(hint, other string) string {
	if hint != "" {
		return hint
	}
	return other
}
