package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/qmp"
)

// blockJob is what we read of a BlockJobInfo.
type blockJob struct {
	Job      string `json:"device"`
	Status   string `json:"status"`
	IOStatus string `json:"io-status"`
	Paused   bool   `json:"paused"` // by a user, or by QEMU while it drains
	Ready    bool   `json:"ready"`
	Error    string `json:"error"`
}

func (v *VM) ourJobs(ctx context.Context) (map[string]blockJob, error) {
	var list []blockJob
	if err := v.do(ctx, "query-block-jobs", nil, &list); err != nil {
		return nil, err
	}
	jobs := make(map[string]blockJob, len(list))
	for _, j := range list {
		if isOurs(j.Job, vm.KindJob) {
			jobs[j.Job] = j
		}
	}
	return jobs, nil
}

// Detach implements vm.Taps. The order is the only one that is known not to
// crash QEMU: the mirror is told to complete (never forced) while its tap goes
// on answering, it ends, and only then the connection is closed.
func (v *VM) Detach(ctx context.Context, taps []vm.Tap) error {
	if err := v.settlePause(ctx); err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	jobs, err := v.ourJobs(ctx)
	if err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	for _, t := range taps {
		if j, ok := jobs[t.Job]; ok {
			if err := v.cancelJob(ctx, j); err != nil {
				return fmt.Errorf("detach volume %s: %w", t.Volume, err)
			}
		}
	}
	if err := v.awaitEnd(ctx, taps); err != nil {
		return fmt.Errorf("detach: wait for the mirrors to end: %w", err)
	}
	nodes, err := v.namedNodes(ctx)
	if err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	for _, t := range taps {
		if _, ok := nodes[t.Node]; !ok {
			continue
		}
		err := v.do(ctx, "blockdev-del", args{"node-name": t.Node}, nil)
		if err != nil && !qemuSays(err, "Failed to find node") {
			return fmt.Errorf("detach volume %s: %w", t.Volume, err)
		}
	}
	if err := v.removeOrphans(ctx, taps); err != nil {
		return fmt.Errorf("detach: remove what was unplugged: %w", err)
	}
	if err := v.mon.Settle(ctx); err != nil { // no late word of them is remembered for ever
		return fmt.Errorf("detach: %w", err)
	}
	v.jobs.forget(taps)
	return nil
}

// cancelJob completes a mirror: for a job that is ready, a cancel without
// force keeps source and target equal and reports success.
func (v *VM) cancelJob(ctx context.Context, j blockJob) error {
	switch j.Status {
	case "waiting", "pending", "aborting", "concluded", "null":
		return nil // ends already
	}
	if j.Paused { // a soft cancel of a paused job is refused
		err := gone(v.do(ctx, "block-job-resume", args{"device": j.Job}, nil))
		if err != nil && !qemuSays(err, "was not paused") { // QEMU itself had paused it for a moment
			return err
		}
	}
	return gone(v.do(ctx, "block-job-cancel", args{"device": j.Job}, nil))
}

// gone takes "no such job" for success.
func gone(err error) error {
	if errors.Is(err, qmp.DeviceNotActive) {
		return nil
	}
	return err
}

func (v *VM) awaitEnd(ctx context.Context, taps []vm.Tap) error {
	return v.poll(ctx, func() (bool, error) {
		jobs, err := v.ourJobs(ctx)
		if err != nil {
			return false, err
		}
		left := false
		for _, t := range taps {
			j, ok := jobs[t.Job]
			if !ok {
				continue
			}
			left = true
			switch j.Status {
			case "pending": // somebody has switched auto-finalize off
				err = gone(v.do(ctx, "job-finalize", args{"id": j.Job}, nil))
			case "concluded":
				err = gone(v.do(ctx, "job-dismiss", args{"id": j.Job}, nil))
			}
			if err != nil && !qemuSays(err, "") { // it has moved on by itself
				return false, err
			}
		}
		return !left, nil
	})
}

// ListTaps implements vm.Taps.
func (v *VM) ListTaps(ctx context.Context, group vm.GroupTag) ([]vm.Tap, error) {
	g, err := v.graph(ctx)
	if err != nil {
		return nil, err
	}
	found := make(map[vm.Tap]string)
	for id, n := range g.nodes {
		kind, tag, suffix, ok := vm.ParseName(n.Name)
		if !ok || group != "" && tag != group {
			continue
		}
		switch kind {
		case vm.KindJob, vm.KindFilter, vm.KindTap:
		default:
			continue
		}
		tap := tapOf(tag, suffix, "")
		if kind == vm.KindFilter && n.Type == typeDriver {
			found[tap] = g.nodes[g.throughTaps(id)].Name
		} else if _, ok := found[tap]; !ok {
			found[tap] = ""
		}
	}
	out := make([]vm.Tap, 0, len(found))
	for tap, volume := range found {
		tap.Volume = volume
		out = append(out, tap)
	}
	slices.SortFunc(out, func(a, b vm.Tap) int { return cmp.Compare(a.Job, b.Job) })
	return out, nil
}
