package qemu

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/rephub/rephub/internal/vm"
)

// CheckFence implements vm.Taps: two commands that touch no block node.
func (v *VM) CheckFence(ctx context.Context, taps []vm.Tap) (vm.RunState, error) {
	if err := v.settlePause(ctx); err != nil {
		return "", err
	}
	jobs, err := v.ourJobs(ctx)
	if err != nil {
		return "", err
	}
	state, err := v.RunState(ctx)
	if err != nil {
		return "", err
	}
	if err := v.mon.Settle(ctx); err != nil {
		return "", err
	}
	// By now everything that QEMU reported before it answered is recorded.
	for _, t := range taps {
		if err := v.whole(t, jobs); err != nil {
			return state, err
		}
	}
	if err := v.Around(); err != nil {
		return state, err
	}
	switch state {
	case "inmigrate", "finish-migrate", "postmigrate":
		return state, &vm.NotWholeError{Reason: vm.ReasonMigrated, Detail: "run state " + string(state)}
	}
	return state, nil
}

// whole says whether a tap's mirror has copied all it should. A job that is
// paused still copies: the filter does that, not the job.
func (v *VM) whole(t vm.Tap, jobs map[string]blockJob) error {
	if failure, failed := v.jobs.failure(t.Job); failed {
		return &vm.NotWholeError{Reason: vm.ReasonTapFailed, Tap: t, Detail: failure}
	}
	j, ok := jobs[t.Job]
	switch {
	case !ok:
		return &vm.NotWholeError{Reason: vm.ReasonTapGone, Tap: t, Detail: "its job is no longer there"}
	case j.Error != "" || j.IOStatus != "ok":
		return &vm.NotWholeError{Reason: vm.ReasonTapFailed, Tap: t, Detail: cmp.Or(j.Error, "I/O status "+j.IOStatus)}
	}
	switch j.Status {
	case "created", "running", "paused", "ready", "standby":
		return nil
	}
	return &vm.NotWholeError{Reason: vm.ReasonTapGone, Tap: t, Detail: "its job is " + j.Status}
}

// CheckBypass implements vm.Taps.
func (v *VM) CheckBypass(ctx context.Context, taps []vm.Tap) (err error) {
	var there []string
	v.strangers.begin()
	defer func() { v.strangers.end(there, err == nil) }()
	// First who is there, then where they are: whoever comes between the two is
	// not known, and whoever goes is noted.
	if there, err = v.users(ctx); err != nil {
		return err
	}
	if err := v.checkGraph(ctx, taps); err != nil {
		return err
	}
	if err := v.mon.Settle(ctx); err != nil {
		return err
	}
	return v.Around()
}

// checkGraph looks for writers around the taps in the block graph as it is now.
func (v *VM) checkGraph(ctx context.Context, taps []vm.Tap) error {
	g, err := v.graph(ctx)
	if err != nil {
		return err
	}
	for _, t := range taps {
		id, ok := g.find(t.Filter)
		if !ok {
			return &vm.NotWholeError{Reason: vm.ReasonTapGone, Tap: t, Detail: "its filter is no longer there"}
		}
		if user, found := g.bypass(g.throughTaps(id), id, t); found {
			return &vm.BypassError{Tap: t, User: v.describeUser(ctx, g, user)}
		}
	}
	return nil
}

// bypass looks for an edge through which somebody writes to the volume, or to
// a node below it, other than through the filter.
func (g *graph) bypass(volume, filter uint64, t vm.Tap) (graphEdge, bool) {
	below := g.below(volume)
	for _, e := range g.edges {
		if !below[e.Child] || below[e.Parent] || e.Parent == filter || !e.writes() {
			continue
		}
		if p := g.nodes[e.Parent]; p.Type == "block-job" && p.Name == t.Job {
			continue
		}
		return e, true
	}
	return graphEdge{}, false
}

// describeUser names the parent of an edge as well as it can.
func (v *VM) describeUser(ctx context.Context, g *graph, e graphEdge) string {
	parent, child := g.nodes[e.Parent], g.nodes[e.Child]
	if parent.Name != "" {
		return fmt.Sprintf("%s %s", parent.Type, parent.Name)
	}
	exports, err := v.exports(ctx)
	if err != nil {
		return parent.Type
	}
	exports = slices.DeleteFunc(exports, func(x exportInfo) bool { return x.Node != child.Name })
	if len(exports) == 0 {
		return parent.Type
	}
	ids := make([]string, 0, len(exports))
	for _, x := range exports {
		ids = append(ids, x.ID)
	}
	return "export " + strings.Join(ids, " or ")
}
