package agent

import (
	"context"
	"time"

	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/relay"
	"github.com/rephub/rephub/journal"
)

const (
	// reportEvery is how often the hub hears how all groups are. Of a group that is
	// in another state it hears at once, but not more often than every reportGap.
	reportEvery, reportGap = 500 * time.Millisecond, 5 * time.Millisecond
	// reportAtOnce bounds the groups in one call, so that it fits.
	reportAtOnce = 32
)

// reporter tells the hub how the groups are.
type reporter struct {
	a    *Agent
	last time.Time     // of a report about all
	trip time.Duration // of the last one
	told map[journal.GroupID]protect.State
}

// report tells the hub until ctx ends.
func (a *Agent) report(ctx context.Context) {
	r := reporter{a: a, told: map[journal.GroupID]protect.State{}}
	for a.await(ctx) {
		conn, err := a.up.now()
		if err != nil {
			continue
		}
		all := time.Since(r.last) > reportEvery
		if all {
			clear(r.told) // of groups that have gone, too
		}
		var batch []host.Status
		for _, g := range a.groups.all() {
			if id, state := g.state(); !all && state == r.told[id] {
				continue
			}
			if batch = append(batch, g.status(time.Now())); len(batch) == reportAtOnce {
				r.send(ctx, conn, batch)
				batch = nil
			}
		}
		if len(batch) > 0 {
			r.send(ctx, conn, batch)
		}
		if all {
			r.last = time.Now()
		}
	}
}

// await returns when there is something to report, and false when ctx ends.
func (a *Agent) await(ctx context.Context) bool {
	if !sleep(ctx, reportGap) {
		return false
	}
	t := time.NewTimer(reportEvery / 10) // also for groups that have no life to tell of
	defer t.Stop()
	select {
	case <-a.changed:
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// stateChanged has the hub told of a group that is in another state.
func (a *Agent) stateChanged() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

func (r *reporter) send(ctx context.Context, conn *relay.Conn, batch []host.Status) {
	began := time.Now()
	ask, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	if err := conn.Call(ask, host.CallStatus, host.Statuses{Now: began.UnixNano(), Trip: r.trip, Groups: batch}, nil); err != nil {
		r.a.cfg.Logger.Debug("tell the hub how the groups are", "err", err)
		return
	}
	r.trip = time.Since(began)
	for _, s := range batch {
		r.told[s.ID] = s.State
	}
}

// mostOthers bounds what is told of volumes that a group does not have: reports have a size that they must keep to.
const mostOthers = 16

// state is that of the group's status.
func (g *group) state() (journal.GroupID, protect.State) {
	life, _, _ := g.now()
	if life == nil {
		return g.spec().ID, protect.StateDegraded
	}
	return g.spec().ID, life.State()
}

// status is how the group is, for the hub.
func (g *group) status(now time.Time) host.Status {
	spec := g.spec()
	life, spool, err := g.now()
	if life == nil {
		return host.Status{ID: spec.ID, State: protect.StateDegraded, Reason: err.Error(), Age: -1}
	}
	s := life.Status()
	out := host.Status{
		ID: spec.ID, State: s.State, Reason: s.Reason, Hint: s.Hint,
		Epoch: s.Epoch, Last: s.Last, Fenced: s.Fenced, Point: s.Durable, Age: -1, SpoolBytes: spool.kept(), Others: s.Others[:min(mostOthers, len(s.Others))],
	}
	if !s.PointTime.IsZero() {
		out.Age = max(0, now.Sub(s.PointTime))
	}
	if stall := spool.sender.Status().Stalled; stall != "" {
		out.Stalled = stall
	}
	for _, v := range s.Volumes {
		vs := host.VolumeStatus{ID: v.ID, Node: v.Node, Size: v.Size, State: v.State}
		if v.Sync != nil {
			vs.Sync = &host.SyncStatus{Kind: v.Sync.Kind, Progress: v.Sync.Progress}
		}
		out.Volumes = append(out.Volumes, vs)
	}
	return out
}
