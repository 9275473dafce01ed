package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/recovery"
	"github.com/rephub/rephub/internal/replica"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
)

// storedGroup is what a group has on the hub's disk: replica and points. Whoever
// feeds it, the hub itself or an agent, it is recovered from in one way.
type storedGroup struct {
	store  *replica.Store
	name   string
	id     journal.GroupID
	now    func() time.Time
	oldest oldestPoint
}

// openStore makes or opens the files of a group.
func openStore(ctx context.Context, d GroupDeps) (*replica.Store, error) {
	r := d.Record
	cfg := replica.Config{Logger: d.Logger.With("group", r.Name), Seeds: d.Seeds.paths()}
	var store *replica.Store
	var err error
	if d.Create {
		m := replica.Manifest{ID: r.ID, Name: r.Name}
		for _, v := range r.Volumes {
			m.Volumes = append(m.Volumes, replica.Volume{ID: v.ID, UUID: v.UUID, Name: v.Name, Size: v.Size})
		}
		store, err = replica.Create(vfs.OS(), d.Dir, m, cfg)
		if err == nil {
			if err = d.Seeds.note(ctx, d, store); err != nil {
				err = errors.Join(err, store.Close())
			}
		}
	} else {
		store, err = replica.Open(vfs.OS(), d.Dir, cfg)
	}
	if err != nil {
		return nil, err
	}
	if id := store.Manifest().ID; id != r.ID {
		return nil, errors.Join(fmt.Errorf("the folder of group %s (%s) holds group %s", r.Name, r.ID, id), store.Close())
	}
	return store, nil
}

// keep makes g the group of a store.
func (g *storedGroup) keep(store *replica.Store, r *groupRecord) {
	g.store, g.name, g.id, g.now = store, r.Name, r.ID, time.Now
	g.oldest.timeOf = store.TimeOf
}

// ID implements recovery.Group.
func (g *storedGroup) ID() journal.GroupID { return g.id }

// Name implements recovery.Group.
func (g *storedGroup) Name() string { return g.name }

// Volumes implements recovery.Group.
func (g *storedGroup) Volumes(at journal.Seq) ([]recovery.Volume, error) {
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
func (g *storedGroup) View(v journal.VolumeID, at journal.Seq) (recovery.View, error) {
	view, err := g.store.View(v, at)
	if err != nil {
		return nil, err
	}
	return view, nil
}

// Pin implements recovery.Group.
func (g *storedGroup) Pin(at journal.Seq) (func(), error) { return g.store.Pin(at) }

// Retain implements Group.
func (g *storedGroup) Retain(ctx context.Context, now time.Time, history time.Duration) (journal.Seq, error) {
	res, err := g.store.Retain(ctx, now, replica.Retention{History: history})
	return res.Held, err
}

// Close implements Group.
func (g *storedGroup) Close() error {
	g.oldest.close()
	return g.store.Close()
}

// Resolve implements Points.
func (g *storedGroup) Resolve(at journal.Point, now time.Time) (recovery.Point, error) {
	seq, t, err := g.store.Resolve(at, now)
	if errors.Is(err, replica.ErrNoPoint) {
		return recovery.Point{}, api.Errorf(api.CodeNotFound, "group %s: %v", g.name, err).
			WithHint("rephub status %s shows the points that there are", g.name)
	}
	return recovery.Point{Seq: seq, Time: t}, err
}

// Checkpoints implements Points.
func (g *storedGroup) Checkpoints(context.Context) ([]api.Checkpoint, error) {
	tl := g.store.Log().DurableTimeline()
	out := []api.Checkpoint{}
	for _, c := range tl.Checkpoints {
		out = append(out, checkpointOf(c))
	}
	return out, nil
}

// autoCheckpoints are AutoCheckpoints up to q.Settled.
func (g *storedGroup) autoCheckpoints(q replica.AutoQuery) ([]api.Checkpoint, bool, error) {
	marks, more, err := g.store.Auto(q)
	if err != nil {
		return nil, false, fmt.Errorf("list the automatic checkpoints of group %s: %w", g.name, err)
	}
	var out []api.Checkpoint
	for _, m := range marks {
		out = append(out, api.Checkpoint{
			Name: journal.AutoName(m.At), Seq: uint64(m.Seq), Time: m.At, Kind: "auto", Consistency: string(journal.CrashConsistent),
		})
	}
	return out, more, nil
}

func checkpointOf(c journal.Checkpoint) api.Checkpoint {
	return api.Checkpoint{
		Name: c.Name, Seq: uint64(c.Seq), Time: time.Unix(0, c.Time).UTC(), Kind: c.Kind,
		Consistency: string(cmp.Or(c.Consistency, journal.CrashConsistent)), Reason: c.Reason,
	}
}

// points fills in what the files tell; newest is when the newest point was the
// newest state of the group, as far as that is known.
func (g *storedGroup) points(out *api.GroupStatus, newest time.Time) {
	out.JournalBytes = g.store.Log().Bytes()
	for _, r := range g.store.Ranges() {
		out.Ranges = append(out.Ranges, [2]uint64{uint64(r.From), uint64(r.To)})
	}
	n := len(out.Ranges)
	if n == 0 {
		return
	}
	out.FirstSeq, out.DurableSeq = out.Ranges[0][0], out.Ranges[n-1][1]
	if !newest.IsZero() {
		rpo := max(0, g.now().Sub(newest).Seconds())
		at := newest.UTC()
		out.RPOSeconds, out.NewestTime = &rpo, &at
	}
	if at := g.oldest.time(journal.Seq(out.FirstSeq)).UTC(); !at.IsZero() {
		out.OldestTime = &at
	}
}

// pointError says to clients what the errors of naming a point mean.
func (g *storedGroup) pointError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, protect.ErrExists):
		return api.Errorf(api.CodeConflict, "group %s: %v", g.name, err).WithHint("choose another name")
	case errors.Is(err, protect.ErrNoPoint):
		return api.Errorf(api.CodeConflict, "group %s: %v", g.name, err).
			WithHint("wait until it is protected: rephub status %s", g.name)
	case errors.Is(err, protect.ErrNoCheckpoint):
		return api.Errorf(api.CodeNotFound, "group %s: %v", g.name, err).WithHint("rephub checkpoint list %s shows them", g.name)
	}
	return fmt.Errorf("group %s: %w", g.name, err)
}
