package agent

import (
	"context"
	"time"

	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/protect"
)

const (
	// reportEvery is how often the hub hears how the groups are.
	reportEvery = 500 * time.Millisecond
	// reportAtOnce bounds the groups in one call, so that it fits.
	reportAtOnce = 32
)

// report tells the hub how the groups are, until ctx ends.
func (a *Agent) report(ctx context.Context) {
	var trip time.Duration
	for sleep(ctx, reportEvery) {
		conn, err := a.up.now()
		if err != nil {
			continue
		}
		var batch host.Statuses
		send := func() {
			if len(batch.Groups) == 0 {
				return
			}
			began := time.Now()
			batch.Now, batch.Trip = began.UnixNano(), trip
			ask, cancel := context.WithTimeout(ctx, dialPatience)
			defer cancel()
			if err := conn.Call(ask, host.CallStatus, batch, nil); err != nil {
				a.cfg.Logger.Debug("tell the hub how the groups are", "err", err)
			}
			trip = time.Since(began)
			batch.Groups = nil
		}
		for _, g := range a.groups.all() {
			batch.Groups = append(batch.Groups, g.status(time.Now()))
			if len(batch.Groups) == reportAtOnce {
				send()
			}
		}
		send()
	}
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
		Epoch: s.Epoch, Last: s.Last, Fenced: s.Fenced, Point: s.Durable, Age: -1, SpoolBytes: spool.Log.Bytes(),
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
