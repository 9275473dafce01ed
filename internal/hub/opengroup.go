package hub

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/replica"
	"github.com/rephub/rephub/internal/sync"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/journal"
)

// localGroup is a group whose VMs run on the hub's own host.
type localGroup struct {
	storedGroup
	life atomic.Pointer[protect.Group]
	make func() (*protect.Group, error) // a new life on the same store
}

// openGroup is the OpenGroup of a real hub.
func openGroup(ctx context.Context, d GroupDeps) (Group, error) {
	store, err := openStore(ctx, d)
	if err != nil {
		return nil, err
	}
	g, err := groupOn(d, store)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return g, nil
}

// groupOn is a group on files that are open.
func groupOn(d GroupDeps, store *replica.Store) (Group, error) {
	if d.Record.Agent != "" {
		return newAgentGroup(d, store), nil
	}
	g, err := newLocalGroup(d, store)
	if err != nil {
		return nil, err // not a nil pointer in a Group
	}
	return g, nil
}

// Rebind implements Group.
func (g *storedGroup) Rebind(d GroupDeps) (Group, error) {
	next, err := groupOn(d, g.store)
	if err == nil {
		g.oldest.close()
	}
	return next, err
}

func newLocalGroup(d GroupDeps, store *replica.Store) (*localGroup, error) {
	r := d.Record
	deps := protect.Deps{
		Replica: replicaOf{store}, FS: vfs.OS(), Keeper: d.Keeper, GrantEpoch: d.GrantEpoch, Logger: d.Logger, Freezer: d.Freezer,
		OpenVM: func(ctx context.Context, ref protect.VMRef) (vm.VM, error) { return d.OpenVM(ctx, ref.QMP) },
	}
	g := &localGroup{}
	g.keep(store, &r)
	life, err := protect.New(deps, specOf(r), protectConfig(d))
	if err != nil {
		return nil, err
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
func (g *localGroup) Again() error {
	life, err := g.make()
	if err == nil {
		g.life.Store(life)
	}
	return err
}

func specOf(r groupRecord) protect.Spec {
	s := protect.Spec{ID: r.ID, Name: r.Name, Goal: r.goal(), Volumes: volumesOf(r)}
	for _, v := range r.VMs {
		s.VMs = append(s.VMs, protect.VMRef{Name: v.Name, QMP: v.QMP, NBDServer: v.NBDServer})
	}
	return s
}

// goals are what protect calls the intents.
var goals = map[catalog.Intent]protect.Goal{
	catalog.IntentProtect: protect.GoalProtect, catalog.IntentPause: protect.GoalPause, catalog.IntentStop: protect.GoalStop,
}

func volumesOf(r groupRecord) []protect.Volume {
	var out []protect.Volume
	for _, v := range r.Volumes {
		out = append(out, protect.Volume{ID: v.ID, UUID: v.UUID, VM: v.VM, Disk: v.Disk, Node: v.Node, Size: v.Size})
	}
	return out
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

// Run implements Life.
func (g *localGroup) Run(ctx context.Context) error { return g.life.Load().Run(ctx) }

// Started implements Life.
func (g *localGroup) Started(ctx context.Context) error { return g.life.Load().Started(ctx) }

// Pause implements Life.
func (g *localGroup) Pause(ctx context.Context) error { return g.life.Load().Pause(ctx) }

// Resume implements Life.
func (g *localGroup) Resume(ctx context.Context) error { return g.life.Load().Resume(ctx) }

// Stop implements Life.
func (g *localGroup) Stop(ctx context.Context) error { return g.life.Load().Stop(ctx) }

// Leave implements Life.
func (g *localGroup) Leave(ctx context.Context) error { return g.Stop(ctx) }

// Obey implements Life.
func (g *localGroup) Obey(r groupRecord) {
	if r.lives() {
		g.life.Load().SetGoal(r.goal())
	}
}

// Checkpoint implements Points.
func (g *localGroup) Checkpoint(ctx context.Context, name string, quiesce time.Duration) (api.Checkpoint, error) {
	c, err := g.life.Load().Checkpoint(ctx, name, quiesce)
	return checkpointOf(c), g.pointError(err)
}

// AutoCheckpoints implements Points.
func (g *localGroup) AutoCheckpoints(q replica.AutoQuery) ([]api.Checkpoint, bool, error) {
	q.Settled = g.life.Load().Status().PointTime
	return g.autoCheckpoints(q)
}

// RemoveCheckpoint implements Points.
func (g *localGroup) RemoveCheckpoint(_ context.Context, name string) error {
	return g.pointError(g.life.Load().RemoveCheckpoint(name))
}

// syncKinds are the words of the contract for protect's.
var syncKinds = map[string]string{"full": "initial"}

func syncStatus(kind string, p sync.Progress) *api.SyncStatus {
	if k, ok := syncKinds[kind]; ok {
		kind = k
	}
	return &api.SyncStatus{Kind: kind, DoneBytes: p.Done, TotalBytes: p.Total}
}

// Status implements Group.
func (g *localGroup) Status() api.GroupStatus {
	s := g.life.Load().Status()
	out := api.GroupStatus{
		State: api.State(s.State), Reason: s.Reason, Hint: s.Hint, Epoch: uint64(s.Epoch),
		LastSeq: uint64(s.Last), FencedSeq: uint64(s.Fenced), Unprotected: namesOf(s.Others),
	}
	g.points(&out, s.PointTime)
	for _, v := range s.Volumes {
		vs := api.VolumeStatus{
			Name: v.Name(), UUID: v.UUID, VM: v.VM, Node: v.Node, Size: v.Size, State: api.State(v.State),
		}
		if v.Sync != nil {
			vs.Sync = syncStatus(v.Sync.Kind, v.Sync.Progress)
		}
		out.Volumes = append(out.Volumes, vs)
	}
	return out
}
