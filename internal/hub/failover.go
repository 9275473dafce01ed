package hub

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/failover"
	"github.com/rephub/rephub/internal/recovery"
)

// newFailovers makes the failovers; their VMs run on this machine.
func (h *Hub) newFailovers() *failover.Failovers {
	return failover.New(failover.Config{Dir: h.data.join("run"), Logger: h.cfg.Logger, Actions: fencing{h}})
}

// TestFailover implements api.Service. What cannot be done is told before the task is made.
func (h *Hub) TestFailover(_ context.Context, group string, req api.FailoverRequest) (api.Task, error) {
	checks, err := checksOf(req.Check)
	if err != nil {
		return api.Task{}, err
	}
	return h.startTrial(group, req.At, trial{checks: checks, stop: req.Stop})
}

// defaultPatience is how long guests have to shut down in a planned failover.
const defaultPatience = 2 * time.Minute

// StartFailover implements api.Service.
func (h *Hub) StartFailover(_ context.Context, group string, req api.FailoverStart) (api.Task, error) {
	s := failover.Spec{
		Kind: failover.Failover, At: req.At, Planned: req.Planned, Patience: defaultPatience,
		CommitAfter: seconds(req.CommitAfterSeconds), Storage: req.Storage,
	}
	if req.ShutdownTimeoutSeconds > 0 {
		s.Patience = seconds(req.ShutdownTimeoutSeconds)
	}
	if s.Storage == "" {
		s.Storage = h.data.join("recovered")
	}
	if !filepath.IsAbs(s.Storage) {
		return api.Task{}, api.Errorf(api.CodeInvalid, "the directory %q is not absolute", req.Storage)
	}
	if req.Planned && !latest(req.At) {
		return api.Task{}, api.Errorf(api.CodeInvalid, "a planned failover is to the newest point, and to no other: not one write is to be lost").
			WithHint("leave --at out; without --planned the VMs are held where they run, not shut down")
	}
	e, err := h.find(group)
	if err != nil {
		return api.Task{}, err
	}
	if r := e.record(); r.Intent == catalog.IntentFailover {
		return api.Task{}, failedOver(group)
	}
	if st := e.status(); req.Planned && st.State != api.StateProtected {
		return api.Task{}, api.Errorf(api.CodeConflict, "group %s is %s, so a planned failover could lose writes: %s", group, st.State, st.Reason).
			WithHint("wait until rephub status %s says protected; without --planned it fails over to the newest point that there is", group)
	}
	return h.startVMs("failover", group, s, func(ctx context.Context, s failover.Spec, step func(string)) (any, error) {
		r, err := h.failovers.Start(ctx, s, step)
		if err != nil {
			return nil, failoverError(group, "the failover is undone", err)
		}
		return failoverOf(r), nil
	})
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// latest says whether a POINT is the newest one, whichever that is by then.
func latest(at string) bool { return at == "" || at == "latest" }

func failedOver(group string) error {
	return api.Errorf(api.CodeConflict, "group %s has failed over already", group).
		WithHint("rephub failover list shows it; rephub failover commit %s keeps it, rephub failover rollback %s takes it back", group, group)
}

// startVMs is a task that starts a group's VMs from a point, which start does.
func (h *Hub) startVMs(task, group string, s failover.Spec, start func(context.Context, failover.Spec, func(string)) (any, error)) (api.Task, error) {
	e, err := h.findPlan(group)
	if err != nil {
		return api.Task{}, err
	}
	vms, settings, err := e.plannedVMs(s.Kind)
	if err != nil {
		return api.Task{}, err
	}
	g, point, leave, err := h.use(group, s.At)
	if err != nil {
		return api.Task{}, err
	}
	s.ID, s.Group, s.Seq, s.Time, s.VMs = recovery.NewID(), group, point.Seq, point.Time, vms
	s.Before, s.After = settings.Before, settings.After
	s.Mount = func(ctx context.Context, r *failover.Record) (map[string]string, error) {
		m, err := h.mounts.MountAs(ctx, r.ID, g, recovery.Point{Seq: r.Seq, Time: r.Time}, true)
		if err != nil {
			return nil, recoveryError(err)
		}
		uris := map[string]string{}
		for _, x := range m.Exports {
			uris[x.Name] = x.URI
		}
		return uris, nil
	}
	t, err := h.tasks.start(task, group, func(ctx context.Context, progress func(api.Progress)) (any, error) {
		defer leave()
		h.beside() // from now on VMs run on this machine
		return start(ctx, s, func(step string) { progress(api.Progress{Step: step}) })
	})
	if err != nil {
		leave()
	}
	return t, err
}

// failoverError leaves what has a code as it is. What else goes wrong is for people to mend on this host or in the plan.
func failoverError(group, undone string, err error) error {
	var known *api.Error
	switch {
	case errors.As(err, &known), errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, failover.ErrExists):
		return failedOver(group)
	case errors.Is(err, failover.ErrMemory):
		return api.Errorf(api.CodeConflict, "%v", err).WithHint("stop tests (rephub failover list), or give the VMs less: memory in rephub plan edit %s", group)
	}
	return api.Errorf(api.CodeConflict, "%v", err).WithHint("%s; rephub plan show %s tells what the VMs were, rephub plan edit %s changes how they are started", undone, group, group)
}

// failoverOfGroup is the one that a group is in, or else the last one that was committed.
func (h *Hub) failoverOfGroup(group string) (r failover.Record, err error) {
	if _, err := h.find(group); err != nil {
		return r, err
	}
	found := false
	for _, one := range h.failovers.List() {
		if one.Kind == failover.Failover && one.Group == group {
			r, found = one, true
		}
	}
	if !found {
		return r, api.Errorf(api.CodeConflict, "group %s has not failed over", group).WithHint("rephub failover start %s does that; rephub failover list shows tests, too", group)
	}
	return r, nil
}

// CommitFailover implements api.Service. It has been decided when the task is there; the task follows the volumes.
func (h *Hub) CommitFailover(_ context.Context, group string) (api.Task, error) {
	r, err := h.failoverOfGroup(group)
	if err != nil {
		return api.Task{}, err
	}
	if r.Phase == failover.Committed {
		return api.Task{}, api.Errorf(api.CodeConflict, "the failover of group %s is committed already", group).WithHint("rephub status %s shows how it is protected now", group)
	}
	switch err := h.failovers.Commit(r.ID); {
	case errors.Is(err, failover.ErrEnded):
		return api.Task{}, api.Errorf(api.CodeConflict, "%v", err).
			WithHint("start it again with %s, or take the failover back with rephub failover rollback %s", filepath.Join(h.failovers.Dir(r.ID), "N", "start"), group)
	case err != nil:
		return api.Task{}, busyFailover(r.ID, err)
	}
	return h.tasks.start("failover-commit", group, func(ctx context.Context, progress func(api.Progress)) (any, error) {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			now, err := h.failovers.Get(r.ID)
			if err != nil || now.Phase == failover.Committed {
				return failoverOf(now), err
			}
			p := api.Progress{Step: "moving the volumes to this host", DoneBytes: now.Done, TotalBytes: now.Total}
			if now.Problem != "" {
				p.Step = now.Problem
			}
			progress(p)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	})
}

// RollbackFailover implements api.Service.
func (h *Hub) RollbackFailover(_ context.Context, group string) (api.Task, error) {
	r, err := h.failoverOfGroup(group)
	if err != nil {
		return api.Task{}, err
	}
	if r.Phase == failover.Committing || r.Phase == failover.Committed {
		return api.Task{}, committed(group)
	}
	return h.tasks.start("failover-rollback", group, func(ctx context.Context, progress func(api.Progress)) (any, error) {
		progress(api.Progress{Step: "ending the VMs"})
		if err := h.failovers.Stop(ctx, r.ID); err != nil {
			return nil, busyFailover(r.ID, err)
		}
		e, err := h.find(group)
		if err != nil || e.record().Intent != catalog.IntentProtect {
			return nil, err
		}
		progress(api.Progress{Step: "going on as before"})
		return nil, h.followed(ctx, e)
	})
}

// followed waits until a group whose failover was taken back takes writes again, which is tried again and again.
func (h *Hub) followed(ctx context.Context, e *entry) error {
	ctx, cancel := context.WithTimeout(ctx, attachPatience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		st := e.status()
		if st.State == api.StateProtected || st.State == api.StateSyncing {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return api.Errorf(api.CodeUnavailable, "the failover of group %s is taken back, but the group is %s: %s", st.Name, st.State, st.Reason).
				WithHint("it goes on by itself; rephub status %s shows how it is", st.Name)
		}
	}
}

func committed(group string) error {
	return api.Errorf(api.CodeConflict, "the failover of group %s is committed, and cannot be taken back", group).
		WithHint("to bring its VMs home, protect them towards the old site and fail over there")
}

// busyFailover says to clients what the errors of the room below mean.
func busyFailover(id string, err error) error {
	switch {
	case errors.Is(err, failover.ErrNotFound):
		return api.Errorf(api.CodeNotFound, "%v: %s", err, id).WithHint("rephub failover list shows them")
	case errors.Is(err, failover.ErrBusy):
		return api.Errorf(api.CodeConflict, "%v", err).WithHint("try again in a moment, or cancel its task: rephub task list")
	case errors.Is(err, failover.ErrCommitted):
		return api.Errorf(api.CodeConflict, "%v", err)
	}
	return err
}

// ListFailovers implements api.Service.
func (h *Hub) ListFailovers(context.Context) (api.Failovers, error) {
	l := api.Failovers{Failovers: []api.Failover{}}
	for _, r := range h.failovers.List() {
		l.Failovers = append(l.Failovers, failoverOf(r))
	}
	return l, nil
}

// StopFailover implements api.Service.
func (h *Hub) StopFailover(ctx context.Context, id string) error {
	r, err := h.failovers.Get(id)
	if err == nil && r.Kind != failover.Test {
		return api.Errorf(api.CodeConflict, "%s is no test", id).WithHint("rephub failover rollback %s takes it back, rephub failover commit %s keeps it", r.Group, r.Group)
	}
	if err == nil {
		err = h.failovers.Stop(ctx, id)
	}
	return busyFailover(id, err)
}

func failoverOf(r failover.Record) api.Failover {
	out := api.Failover{
		ID: r.ID, Group: r.Group, Kind: string(r.Kind), State: string(r.Phase), Seq: uint64(r.Seq), Time: r.Time, Started: r.Started, RTOSeconds: r.RTO.Seconds(),
		Planned: r.Planned, Notes: r.Notes, Problem: r.Problem, MovedBytes: r.Done, TotalBytes: r.Total, VMs: []api.FailoverVM{},
	}
	if !r.CommitAt.IsZero() && r.Phase == failover.Running {
		out.CommitAt = &r.CommitAt
	}
	some := false
	for _, v := range r.VMs {
		alive, err := v.Alive()
		some = some || alive || err != nil
		one := api.FailoverVM{Name: v.Name, Running: alive, StartedSeconds: v.Started.Seconds(), QMP: v.QMP(), NamedQMP: v.Named, Log: v.Dir + "/log", Notes: v.Notes}
		for _, vol := range v.Volumes {
			if vol.Local {
				one.Files = append(one.Files, vol.File)
			}
		}
		out.VMs = append(out.VMs, one)
	}
	if !some && r.Phase == failover.Running {
		out.State = "ended"
	}
	return out
}
