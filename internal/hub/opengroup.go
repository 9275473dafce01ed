package hub

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/recovery"
	"github.com/rephub/rephub/internal/replica"
	"github.com/rephub/rephub/internal/sync"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/journal"
)

// realGroup is a replica with the protection that feeds it.
type realGroup struct {
	store *replica.Store
	life  atomic.Pointer[protect.Group]
	make  func() (*protect.Group, error) // a new life on the same store
	name  string
	id    journal.GroupID
	now   func() time.Time

	oldest oldestPoint
}

// openGroup is the OpenGroup of a real hub.
func openGroup(_ context.Context, d GroupDeps) (Group, error) {
	r := d.Record
	cfg := replica.Config{Logger: d.Logger.With("group", r.Name)}
	var store *replica.Store
	var err error
	if d.Create {
		m := replica.Manifest{ID: r.ID, Name: r.Name}
		for _, v := range r.Volumes {
			m.Volumes = append(m.Volumes, replica.Volume{ID: v.ID, UUID: v.UUID, Name: v.Name, Size: v.Size})
		}
		store, err = replica.Create(vfs.OS(), d.Dir, m, cfg)
	} else {
		store, err = replica.Open(vfs.OS(), d.Dir, cfg)
	}
	if err != nil {
		return nil, err
	}
	if id := store.Manifest().ID; id != r.ID {
		return nil, errors.Join(fmt.Errorf("the folder of group %s (%s) holds group %s", r.Name, r.ID, id), store.Close())
	}
	deps := protect.Deps{
		Replica: replicaOf{store}, FS: vfs.OS(), Keeper: d.Keeper, GrantEpoch: d.GrantEpoch, Logger: d.Logger,
		OpenVM: func(ctx context.Context, ref protect.VMRef) (vm.VM, error) { return d.OpenVM(ctx, ref.QMP) },
	}
	g := &realGroup{store: store, name: r.Name, id: r.ID, now: time.Now}
	g.oldest.timeOf = store.TimeOf
	life, err := protect.New(deps, specOf(r), protectConfig(d))
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	g.life.Store(life)
	g.make = func() (*protect.Group, error) {
		spec := specOf(r)
		spec.Goal = protect.GoalProtect
		return protect.New(deps, spec, protectConfig(d))
	}
	return g, nil
}

func protectConfig(d GroupDeps) protect.Config {
	// Of the hub, not of the group: a QEMU has one NBD server for all groups.
	return protect.Config{ReaderDir: d.RunDir}
}

// Again implements Life.
func (g *realGroup) Again() error {
	life, err := g.make()
	if err == nil {
		g.life.Store(life)
	}
	return err
}

func specOf(r groupRecord) protect.Spec {
	goals := map[catalog.Intent]protect.Goal{
		catalog.IntentProtect: protect.GoalProtect, catalog.IntentPause: protect.GoalPause, catalog.IntentStop: protect.GoalStop,
	}
	s := protect.Spec{ID: r.ID, Name: r.Name, Goal: goals[r.Intent]}
	for _, v := range r.VMs {
		s.VMs = append(s.VMs, protect.VMRef{Name: v.Name, QMP: v.QMP, NBDServer: v.NBDServer})
	}
	for _, v := range r.Volumes {
		s.Volumes = append(s.Volumes, protect.Volume{ID: v.ID, UUID: v.UUID, VM: v.VM, Disk: v.Disk, Node: v.Node, Size: v.Size})
	}
	return s
}

// replicaOf is a store with the interfaces that protect asks for.
type replicaOf struct{ *replica.Store }

// Journal implements protect.Replica.
func (r replicaOf) Journal() protect.Journal { return protect.LocalJournal{Log: r.Store.Log()} }

// SyncRoom implements protect.Replica.
func (r replicaOf) SyncRoom(context.Context) error { return nil }

// Base implements protect.Replica.
func (r replicaOf) Base(_ context.Context, v journal.VolumeID) (protect.BaseImage, error) {
	b, err := r.Store.Base(v)
	return keptOpen{b}, err
}

// keptOpen is a base image that the store closes.
type keptOpen struct{ *replica.Base }

// Close implements protect.BaseImage.
func (keptOpen) Close() error { return nil }

// Current implements protect.Replica.
func (r replicaOf) Current(_ context.Context, v journal.VolumeID) (sync.Current, error) {
	return sync.NewCurrent(r.Store.Latest(v)), nil
}

func (g *realGroup) ID() journal.GroupID { return g.id }
func (g *realGroup) Name() string        { return g.name }

// Volumes implements recovery.Group.
func (g *realGroup) Volumes(at journal.Seq) ([]recovery.Volume, error) {
	tl := g.store.Log().DurableTimeline()
	var out []recovery.Volume
	for _, v := range tl.Volumes {
		size, ok := v.At(at)
		if !ok {
			continue
		}
		out = append(out, recovery.Volume{ID: v.ID, Name: v.Name, Size: size})
	}
	return out, nil
}

// View implements recovery.Group.
func (g *realGroup) View(v journal.VolumeID, at journal.Seq) (recovery.View, error) {
	view, err := g.store.View(v, at)
	if err != nil {
		return nil, err
	}
	return view, nil
}

// Pin implements recovery.Group.
func (g *realGroup) Pin(at journal.Seq) (func(), error) { return g.store.Pin(at) }

// Run implements Life.
func (g *realGroup) Run(ctx context.Context) error { return g.life.Load().Run(ctx) }

// Started implements Life.
func (g *realGroup) Started(ctx context.Context) error { return g.life.Load().Started(ctx) }

// Pause implements Life.
func (g *realGroup) Pause(ctx context.Context) error { return g.life.Load().Pause(ctx) }

// Resume implements Life.
func (g *realGroup) Resume(ctx context.Context) error { return g.life.Load().Resume(ctx) }

// Stop implements Life.
func (g *realGroup) Stop(ctx context.Context) error { return g.life.Load().Stop(ctx) }

// Retain implements Group.
func (g *realGroup) Retain(ctx context.Context, now time.Time, history time.Duration) (journal.Seq, error) {
	res, err := g.store.Retain(ctx, now, replica.Retention{History: history})
	return res.Held, err
}

// Close implements Group.
func (g *realGroup) Close() error {
	g.oldest.close()
	return g.store.Close()
}

// Resolve implements Points.
func (g *realGroup) Resolve(at journal.Point, now time.Time) (recovery.Point, error) {
	seq, t, err := g.store.Resolve(at, now)
	if errors.Is(err, replica.ErrNoPoint) {
		return recovery.Point{}, api.Errorf(api.CodeNotFound, "group %s: %v", g.name, err).
			WithHint("rephub status %s shows the points that there are", g.name)
	}
	return recovery.Point{Seq: seq, Time: t}, err
}

// Checkpoint implements Points.
func (g *realGroup) Checkpoint(ctx context.Context, name string) (api.Checkpoint, error) {
	c, err := g.life.Load().Checkpoint(ctx, name)
	switch {
	case errors.Is(err, protect.ErrExists):
		return api.Checkpoint{}, api.Errorf(api.CodeConflict, "group %s: %v", g.name, err).WithHint("choose another name")
	case errors.Is(err, protect.ErrNoPoint):
		return api.Checkpoint{}, api.Errorf(api.CodeConflict, "group %s: %v", g.name, err).
			WithHint("wait until it is protected: rephub status %s", g.name)
	case err != nil:
		return api.Checkpoint{}, fmt.Errorf("group %s: %w", g.name, err)
	}
	return checkpointOf(c), nil
}

// Checkpoints implements Points.
func (g *realGroup) Checkpoints(context.Context) ([]api.Checkpoint, error) {
	tl := g.store.Log().DurableTimeline()
	out := []api.Checkpoint{}
	for _, c := range tl.Checkpoints {
		out = append(out, checkpointOf(c))
	}
	return out, nil
}

// RemoveCheckpoint implements Points.
func (g *realGroup) RemoveCheckpoint(_ context.Context, name string) error {
	err := g.life.Load().RemoveCheckpoint(name)
	if errors.Is(err, protect.ErrNoCheckpoint) {
		return api.Errorf(api.CodeNotFound, "group %s: %v", g.name, err).WithHint("rephub checkpoint list %s shows them", g.name)
	}
	return err
}

func checkpointOf(c journal.Checkpoint) api.Checkpoint {
	return api.Checkpoint{Name: c.Name, Seq: uint64(c.Seq), Time: time.Unix(0, c.Time).UTC(), Kind: c.Kind}
}

// syncKinds are the words of the contract for protect's.
var syncKinds = map[string]string{"full": "initial"}

// Status implements Group.
func (g *realGroup) Status() api.GroupStatus {
	s := g.life.Load().Status()
	out := api.GroupStatus{
		State: api.State(s.State), Reason: s.Reason, Hint: s.Hint, Epoch: uint64(s.Epoch),
		LastSeq: uint64(s.Last), FencedSeq: uint64(s.Fenced), JournalBytes: g.store.Log().Bytes(),
	}
	for _, r := range g.store.Ranges() {
		out.Ranges = append(out.Ranges, [2]uint64{uint64(r.From), uint64(r.To)})
	}
	if n := len(out.Ranges); n > 0 {
		out.FirstSeq, out.DurableSeq = out.Ranges[0][0], out.Ranges[n-1][1]
		if !s.PointTime.IsZero() {
			rpo := max(0, g.now().Sub(s.PointTime).Seconds())
			at := s.PointTime.UTC()
			out.RPOSeconds, out.NewestTime = &rpo, &at
		}
		if at := g.oldest.time(journal.Seq(out.FirstSeq)).UTC(); !at.IsZero() {
			out.OldestTime = &at
		}
	}
	for _, v := range s.Volumes {
		vs := api.VolumeStatus{
			Name: v.Name(), UUID: v.UUID, VM: v.VM, Node: v.Node, Size: v.Size, State: api.State(v.State),
		}
		if v.Sync != nil {
			kind := v.Sync.Kind
			if k, ok := syncKinds[kind]; ok {
				kind = k
			}
			vs.Sync = &api.SyncStatus{Kind: kind, DoneBytes: v.Sync.Done, TotalBytes: v.Sync.Total}
		}
		out.Volumes = append(out.Volumes, vs)
	}
	return out
}
