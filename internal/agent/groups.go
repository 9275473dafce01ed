package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
)

// groups are the groups of this host. What the hub wants of them is kept, so
// that an agent that starts while the hub is away goes on.
type groups struct {
	a   *Agent
	dir string
	ctx func() context.Context // of what the groups do; ends with the agent, at close
	end context.CancelFunc
	wg  sync.WaitGroup // of groups that are being dropped

	// orders is held while a group is told what to do, made or removed: calls of a
	// hub come side by side.
	orders sync.Mutex

	mu struct {
		sync.Mutex
		byID map[journal.GroupID]*group
	}
}

// specRecord is a group's file.
type specRecord struct {
	host.Group
	Dropped bool `json:"dropped,omitempty"` // it is not to be here any more
}

func newGroups(ctx context.Context, a *Agent, dir string) *groups {
	ctx, end := context.WithCancel(ctx)
	gs := &groups{a: a, dir: dir, ctx: func() context.Context { return ctx }, end: end}
	gs.mu.byID = map[journal.GroupID]*group{}
	return gs
}

// restore goes on with the groups of an earlier run.
func (gs *groups) restore() error {
	_, err := gs.kept(func(r specRecord) {
		gs.begin(r.Group)
		if r.Dropped {
			gs.drop(r.Group)
		}
	})
	return err
}

// kept visits the groups of an earlier run, and returns the folders of those that are damaged.
func (gs *groups) kept(visit func(specRecord)) (damaged []string, err error) {
	entries, err := os.ReadDir(gs.dir)
	if err != nil {
		return nil, fmt.Errorf("list groups: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(gs.dir, e.Name())
		var r specRecord
		err := specKind.Read(vfs.OS(), filepath.Join(dir, specFile), &r)
		switch {
		case errors.Is(err, os.ErrNotExist):
			// It was being made, or removed.
			if err := os.RemoveAll(dir); err != nil {
				return nil, err
			}
		case err != nil:
			gs.a.cfg.Logger.Error("what is known of a group cannot be read; the others go on, and the hub tells it again", "dir", dir, "err", err)
			damaged = append(damaged, dir)
		default:
			visit(r)
		}
	}
	return damaged, nil
}

// begin lets a group live.
func (gs *groups) begin(spec host.Group) *group {
	gs.a.vms.remember(spec.VMs)
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := newGroup(gs.ctx(), gs.a, gs.path(spec.ID), spec)
	gs.mu.byID[spec.ID] = g
	return g
}

func (gs *groups) path(id journal.GroupID) string { return filepath.Join(gs.dir, id.String()) }

// write makes a group's file durable.
func (gs *groups) write(r specRecord) error {
	dir := gs.path(r.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the group's folder: %w", err)
	}
	if err := specKind.Write(vfs.OS(), filepath.Join(dir, specFile), r); err != nil {
		return fmt.Errorf("note the group: %w", err)
	}
	return nil
}

func (gs *groups) find(id journal.GroupID) (*group, error) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g, ok := gs.mu.byID[id]
	if !ok {
		return nil, api.Errorf(api.CodeNotFound, "this host has no group %s", id)
	}
	return g, nil
}

func (gs *groups) all() []*group {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	out := make([]*group, 0, len(gs.mu.byID))
	for _, g := range gs.mu.byID {
		out = append(out, g)
	}
	return out
}

// apply makes a group do what the hub wants, and notes that durably.
func (gs *groups) apply(spec host.Group) error {
	if len(spec.Volumes) == 0 {
		return api.Errorf(api.CodeInvalid, "group %s has no volumes", spec.Name)
	}
	gs.orders.Lock()
	defer gs.orders.Unlock()
	for i, v := range spec.VMs {
		if here, ok := gs.a.vms.find(v.Name); ok && v.QMP == "" {
			spec.VMs[i] = here
		}
	}
	g, err := gs.find(spec.ID)
	if err == nil && reflect.DeepEqual(g.spec(), spec) {
		return nil // a hub tells everything at every connection
	}
	if err := gs.write(specRecord{Group: spec}); err != nil {
		return err
	}
	if err != nil {
		gs.begin(spec)
		return nil
	}
	gs.a.vms.remember(spec.VMs)
	g.apply(spec)
	return nil
}

// held are all groups here.
func (gs *groups) held() host.Has {
	has := host.Has{Groups: []host.Held{}}
	for _, g := range gs.all() {
		spec := g.spec()
		has.Groups = append(has.Groups, host.Held{ID: spec.ID, Hub: spec.Hub})
	}
	return has
}

// forget ends groups and forgets them; those that are not here are forgotten already.
func (gs *groups) forget(ids []journal.GroupID) error {
	gs.orders.Lock()
	defer gs.orders.Unlock()
	for _, id := range ids {
		g, err := gs.find(id)
		if err != nil {
			continue
		}
		spec := g.spec()
		gs.a.cfg.Logger.Info("the group is forgotten, its taps are taken away", "group", spec.Name)
		spec.Goal = protect.GoalStop
		if err := gs.write(specRecord{Group: spec, Dropped: true}); err != nil {
			return err
		}
		gs.drop(spec)
	}
	return nil
}

// drop removes a group once its taps are away.
func (gs *groups) drop(spec host.Group) {
	g, err := gs.find(spec.ID)
	if err != nil {
		return
	}
	spec.Goal = protect.GoalStop
	g.apply(spec)
	gs.wg.Go(func() {
		ctx := gs.ctx()
		if err := g.wait(ctx, protect.StateStopped); err != nil {
			return // the agent ends, and goes on with it at the next start
		}
		gs.orders.Lock() // one that is wanted again is begun in a folder of its own
		defer gs.orders.Unlock()
		gs.mu.Lock()
		wanted := g.spec().Goal != protect.GoalStop || gs.mu.byID[spec.ID] != g // again meanwhile
		if !wanted {
			delete(gs.mu.byID, spec.ID)
		}
		gs.mu.Unlock()
		if wanted {
			return
		}
		g.stop()
		<-g.ended
		if err := os.RemoveAll(g.dir); err != nil {
			gs.a.cfg.Logger.Warn("remove a group's folder", "dir", g.dir, "err", err)
		}
		if err := gs.a.budget.keep(g.aside()); err != nil {
			gs.a.cfg.Logger.Warn("count what is left of a group", "dir", g.dir, "err", err)
		}
	})
}

// await returns when a group is in a state.
func (gs *groups) await(ctx context.Context, w host.Await) error {
	g, err := gs.find(w.ID)
	if err != nil {
		return err
	}
	return g.wait(ctx, w.State)
}

// fresh is the newest seq that was assigned, for a group that is alive.
func (gs *groups) fresh(id journal.GroupID) (host.Fresh, error) {
	g, err := gs.find(id)
	if err != nil {
		return host.Fresh{}, err
	}
	life, _, err := g.now()
	if life == nil {
		return host.Fresh{}, api.Errorf(api.CodeUnavailable, "%v", err)
	}
	st := life.Status()
	return host.Fresh{Seq: st.Last, Protected: st.State == protect.StateProtected}, nil
}

// quiesce freezes the guests of a group for a moment. That needs no hub: one that is
// lost meanwhile does not keep them frozen.
func (gs *groups) quiesce(ctx context.Context, q host.Quiesce) (host.Quiesced, error) {
	g, err := gs.find(q.ID)
	if err != nil {
		return host.Quiesced{}, err
	}
	life, _, err := g.now()
	if life == nil {
		return host.Quiesced{}, api.Errorf(api.CodeUnavailable, "%v", err)
	}
	quiet, err := life.Quiesce(ctx, q.Patience)
	if err != nil {
		return host.Quiesced{Failed: err.Error()}, nil
	}
	return host.Quiesced{Seq: quiet.Seq, Age: time.Since(quiet.At)}, nil
}

// close waits for everything; taps stay.
func (gs *groups) close() {
	gs.end()
	for _, g := range gs.all() {
		g.stop()
		<-g.ended
	}
	gs.wg.Wait()
}
