package hub

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/replica"
	"github.com/rephub/rephub/journal"
)

// agentCaller reaches the agents of other hosts.
type agentCaller interface {
	// call asks an agent; an *agentAwayError when it is not connected.
	call(ctx context.Context, id, method string, params, result any) error
	get(id string) (*agentLink, bool)
}

// agentGroup is a group whose VMs run on another host: the agent there protects
// them and ships the journal that the store keeps.
type agentGroup struct {
	storedGroup
	agents agentCaller
	intake *intake
	names  *protect.Names
	made   time.Time // when the hub opened it

	mu struct {
		sync.Mutex
		record  groupRecord // its intent may be an older one
		heard   host.Status
		at      time.Time // when it was heard; zero: not since the hub started
		clock   clock
		stopped chan struct{} // closed by Stop
	}
}

// reportAge is how old an agent's word may be to be believed.
const reportAge = 5 * time.Second

func newAgentGroup(d GroupDeps, store *replica.Store) *agentGroup {
	g := &agentGroup{agents: d.Agents, made: time.Now()}
	g.mu.record = d.Record
	g.keep(store, &d.Record)
	g.intake = newIntake(store, d.Logger)
	g.Obey(d.Record)
	g.names = protect.NewNames(protect.LocalJournal{Log: store.Log()})
	g.mu.stopped = make(chan struct{})
	return g
}

func (g *agentGroup) record() groupRecord {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.record
}

// moved says that another agent has the group from now on.
func (g *agentGroup) moved(r groupRecord) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.record, g.mu.heard, g.mu.at = r, host.Status{}, time.Time{}
}

// wanted is what the agent is to do.
func wanted(r groupRecord, goal protect.Goal) host.Group {
	out := host.Group{ID: r.ID, Name: r.Name, Hub: r.Hub, Goal: goal, Volumes: volumesOf(r)}
	for _, m := range r.VMs {
		out.VMs = append(out.VMs, host.VM{Name: m.Name, QMP: m.QMP, NBDServer: m.NBDServer, UUID: m.UUID})
	}
	return out
}

// order has the agent do something, and waits until it is done.
func (g *agentGroup) order(ctx context.Context, goal protect.Goal, state protect.State) error {
	if err := g.ask(ctx, host.CallApply, wanted(g.record(), goal), nil); err != nil {
		return err
	}
	return g.ask(ctx, host.CallAwait, host.Await{ID: g.id, State: state}, nil)
}

func (g *agentGroup) ask(ctx context.Context, method string, params, result any) error {
	return host.Unwrap(g.agents.call(ctx, g.record().Agent, method, params, result))
}

// Run implements Life: the agent does what there is to do.
func (g *agentGroup) Run(ctx context.Context) error {
	g.mu.Lock()
	stopped := g.mu.stopped
	g.mu.Unlock()
	select {
	case <-stopped:
	case <-ctx.Done():
	}
	return nil
}

// Again implements Life.
func (g *agentGroup) Again() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.stopped = make(chan struct{})
	return nil
}

// Started implements Life.
func (g *agentGroup) Started(ctx context.Context) error {
	return g.order(ctx, protect.GoalProtect, protect.StateSyncing)
}

// Resume implements Life.
func (g *agentGroup) Resume(ctx context.Context) error { return g.Started(ctx) }

// Pause implements Life.
func (g *agentGroup) Pause(ctx context.Context) error {
	return g.order(ctx, protect.GoalPause, protect.StatePaused)
}

// Stop implements Life. An agent that is away hears of it when it comes back:
// its host may be gone for good. Run ends in any case, because Stop is what the
// group is meant to do from now on, and Again waits for that.
func (g *agentGroup) Stop(ctx context.Context) error {
	err := g.order(ctx, protect.GoalStop, protect.StateStopped)
	if away := (*agentAwayError)(nil); errors.As(err, &away) {
		err = nil
	}
	g.endRun()
	return err
}

func (g *agentGroup) endRun() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.mu.stopped:
	default:
		close(g.mu.stopped)
	}
}

// Leave implements Life. The agent is told by whoever calls it.
func (g *agentGroup) Leave(context.Context) error {
	g.intake.closed.Store(true)
	g.endRun()
	return nil
}

// Obey implements Life. While the group has failed over, the agent keeps what is not taken, and goes on with it when that is over.
func (g *agentGroup) Obey(r groupRecord) { g.intake.closed.Store(r.Intent == catalog.IntentFailover) }

// hear takes the agent's word on how the group is; now is its clock, ns since
// 1970, trip how long its words need, there and back.
func (g *agentGroup) hear(s host.Status, now int64, trip time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.heard, g.mu.at = s, time.Now()
	g.mu.clock.see(g.mu.at, now, trip)
}

// clock compares another host's wall clock with ours.
type clock struct {
	since time.Time     // of what is believed
	ahead time.Duration // ours before theirs, and the way here; the least that was seen
	trip  time.Duration // the least
}

// clockAge is how long the least is believed: clocks drift, and are set.
const clockAge = time.Minute

func (c *clock) see(at time.Time, now int64, trip time.Duration) {
	ahead := time.Duration(at.UnixNano() - now)
	if c.since.IsZero() || at.Sub(c.since) > clockAge {
		*c = clock{since: at, ahead: ahead, trip: trip}
		return
	}
	c.ahead, c.trip = min(c.ahead, ahead), min(c.trip, trip)
}

// ours is a time of theirs by our clock.
func (c *clock) ours(ns int64) time.Time { return time.Unix(0, ns).Add(c.ahead - c.trip/2) }

// theirs is a time of ours by their clock.
func (c *clock) theirs(at time.Time) time.Time { return at.Add(c.trip/2 - c.ahead) }

// heard is the agent's word, how old it is, and whether it counts.
func (g *agentGroup) heard() (s host.Status, age time.Duration, fresh bool) {
	g.mu.Lock()
	s, at := g.mu.heard, g.mu.at
	g.mu.Unlock()
	age = time.Since(at)
	l, connected := g.agents.get(g.record().Agent)
	// What was said over an earlier connection is of before whatever ended that.
	return s, age, connected && at.After(l.Since) && age < reportAge
}

// Status implements Group.
func (g *agentGroup) Status() api.GroupStatus {
	s, age, fresh := g.heard()
	log := g.store.Log()
	durable := log.DurableTimeline()
	out := api.GroupStatus{
		State: api.State(s.State), Reason: s.Reason, Hint: s.Hint, Epoch: uint64(durable.Epoch),
		LastSeq: uint64(max(s.Last, log.Appended())), FencedSeq: uint64(max(s.Fenced, durable.LastFence.Seq)),
	}
	if fresh {
		out.SpoolBytes, out.Unprotected = s.SpoolBytes, namesOf(s.Others)
	}
	switch {
	case !fresh:
		g.away(&out)
	case s.Stalled != "":
		out.State, out.Reason = api.StateDegraded, "the hub does not take what the agent sends: "+s.Stalled
	}
	g.points(&out, g.newestTime(&durable, s, age, fresh))
	for _, v := range g.record().Volumes {
		vs := api.VolumeStatus{Name: v.Name, UUID: v.UUID, VM: v.VM, Node: v.Node, Size: v.Size, State: out.State}
		if now, ok := durable.Volume(v.ID); ok {
			vs.Size = now.Size()
		}
		for _, h := range s.Volumes {
			if h.ID != v.ID {
				continue
			}
			vs.Node = h.Node
			if h.Sync != nil && fresh {
				vs.Sync = syncStatus(h.Sync.Kind, h.Sync.Progress)
			}
		}
		out.Volumes = append(out.Volumes, vs)
	}
	return out
}

// away says that nobody knows how the VMs are.
func (g *agentGroup) away(out *api.GroupStatus) {
	out.State = api.StateDegraded
	if l, ok := g.agents.get(g.record().Agent); ok {
		out.Reason, out.Hint = "the agent "+l.Name+" has just connected and says nothing of the group yet", ""
		return
	}
	out.Reason = "its agent is not connected: the host is down, or cannot be reached; meanwhile it keeps the writes"
	out.Hint = "rephub agent list shows since when; it goes on by itself"
}

// newestTime is when the newest point was the newest state of the group. An idle
// group writes no fences; then the agent knows better than the journal.
func (g *agentGroup) newestTime(durable *journal.Timeline, s host.Status, age time.Duration, fresh bool) time.Time {
	newest, ok := durable.Newest()
	if !ok {
		return time.Time{}
	}
	var at time.Time
	if durable.LastFence.Seq == newest {
		g.mu.Lock()
		at = g.mu.clock.ours(durable.LastFence.Wall)
		g.mu.Unlock()
	}
	if heard := g.now().Add(-age - s.Age); fresh && s.Age >= 0 && newest >= s.Point && heard.After(at) {
		at = heard
	}
	return at
}

// freshPatience bounds how long a checkpoint waits for what has just been written.
const freshPatience = 10 * time.Second

// Checkpoint implements Points. While the agent is there and the group protected,
// what was written before the call is in it.
func (g *agentGroup) Checkpoint(ctx context.Context, name string, quiesce time.Duration) (api.Checkpoint, error) {
	if err := g.names.Free(name); err != nil {
		return api.Checkpoint{}, g.pointError(err)
	}
	w := protect.Wish{Name: name, Whole: func(durable *journal.Timeline) time.Time {
		s, age, fresh := g.heard()
		return g.newestTime(durable, s, age, fresh)
	}}
	if quiesce > 0 {
		q, err := g.quiesce(ctx, quiesce)
		if w.Quiet = &q; err != nil {
			w.Quiet, w.Reason = nil, err.Error()
		}
	}
	if w.Quiet == nil {
		if err := g.freshPoint(ctx); err != nil {
			return api.Checkpoint{}, fmt.Errorf("group %s: %w", g.name, err)
		}
	}
	w.Now = g.now()
	c, err := g.names.Give(w)
	return checkpointOf(c), g.pointError(err)
}

// quiesce has the agent freeze the guests for a moment, and waits until the last
// seq before it is a point here.
func (g *agentGroup) quiesce(ctx context.Context, patience time.Duration) (protect.Quiet, error) {
	bounded, cancel := context.WithTimeout(ctx, patience+freshPatience)
	defer cancel()
	var done host.Quiesced
	if err := g.ask(bounded, host.CallQuiesce, host.Quiesce{ID: g.id, Patience: patience}, &done); err != nil {
		return protect.Quiet{}, err
	}
	if done.Failed != "" {
		return protect.Quiet{}, errors.New(done.Failed)
	}
	q := protect.Quiet{Seq: done.Seq, At: g.now().Add(-done.Age)}
	return q, protect.AwaitPoint(ctx, protect.LocalJournal{Log: g.store.Log()}, q.Seq, 20*time.Millisecond)
}

func (g *agentGroup) freshPoint(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, freshPatience)
	defer cancel()
	var want host.Fresh
	if err := g.ask(bounded, host.CallFresh, host.ID{ID: g.id}, &want); err != nil || !want.Protected {
		return ctx.Err() // then the newest point there is
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		tl := g.store.Log().DurableTimeline()
		if newest, _ := tl.Newest(); newest >= want.Seq || !tl.Open {
			return nil
		}
		select {
		case <-tick.C:
		case <-bounded.Done():
			return ctx.Err()
		}
	}
}

// AutoCheckpoints implements Points. Times in the journal are by the agent's clock.
func (g *agentGroup) AutoCheckpoints(q replica.AutoQuery) ([]api.Checkpoint, bool, error) {
	s, age, fresh := g.heard()
	durable := g.store.Log().DurableTimeline()
	if at := g.newestTime(&durable, s, age, fresh); !at.IsZero() {
		g.mu.Lock()
		q.Settled = g.mu.clock.theirs(at)
		g.mu.Unlock()
	}
	return g.autoCheckpoints(q)
}

// RemoveCheckpoint implements Points.
func (g *agentGroup) RemoveCheckpoint(_ context.Context, name string) error {
	return g.pointError(g.names.Take(name))
}
