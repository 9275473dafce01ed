package protect

import (
	"context"
	"errors"
	"maps"
	gosync "sync"
	"time"

	"github.com/rephub/rephub/internal/sync"
	"github.com/rephub/rephub/internal/tap"
	"github.com/rephub/rephub/journal"
)

// State is how a group is, in one word.
type State string

// States.
const (
	StateSyncing   State = "syncing"
	StateProtected State = "protected"
	StateDegraded  State = "degraded"
	StatePaused    State = "paused"
	StateStopped   State = "stopped"
)

// status is what Run last said, and who waits to hear more.
type status struct {
	mu      gosync.Mutex
	state   State
	reason  string // a sentence for people; empty when protected
	hint    string
	syncs   map[journal.VolumeID]SyncStatus
	ring    func() tap.State      // of the ring in use, nil without one
	others  map[string][]DiskName // by VM, when it was last asked
	changed chan struct{}         // closed and replaced when the state changes
	told    func()                // Deps.Changed
}

// SyncStatus is how far a volume's sync is.
type SyncStatus struct {
	Kind string // full, bitmap, compare
	sync.Progress
}

// Status is a group at one moment.
type Status struct {
	State        State
	Reason, Hint string
	Epoch        journal.Epoch
	Last         journal.Seq // last assigned by the tap
	Fenced       journal.Seq
	Durable      journal.Seq // newest point: durable and fenced; 0 without one
	// PointTime is a moment at which the newest point was the newest state of
	// the group; zero without a point. RPO is now minus it.
	PointTime time.Time
	Ranges    []journal.SeqRange // durable ones
	Volumes   []VolumeStatus
	// Others are the volumes that the group's VMs have besides, as far as is known.
	Others []DiskName
}

// DiskName names a volume of a VM.
type DiskName struct {
	VM   string `json:"vm"`
	Disk string `json:"disk"`
}

// VolumeStatus is a volume of a group.
type VolumeStatus struct {
	Volume
	State State
	Sync  *SyncStatus // nil while none runs
}

// set says how the group is from now on, and tells whether that is new.
func (s *status) set(state State, reason, hint string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == state && s.reason == reason && s.hint == hint {
		return false
	}
	s.state, s.reason, s.hint = state, reason, hint
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = make(chan struct{})
	if s.told != nil {
		s.told()
	}
	return true
}

// fail says that something does not work, and why; it tells whether that is new.
func (s *status) fail(err error) bool {
	var hinted interface{ Hint() string }
	hint := ""
	if errors.As(err, &hinted) {
		hint = hinted.Hint()
	}
	return s.set(StateDegraded, err.Error(), hint)
}

func (s *status) setSync(id journal.VolumeID, v *SyncStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := maps.Clone(s.syncs)
	if next == nil {
		next = map[journal.VolumeID]SyncStatus{}
	}
	if v == nil {
		delete(next, id)
	} else {
		next[id] = *v
	}
	s.syncs = next
}

// setOthers notes what a VM has besides the group's volumes.
func (s *status) setOthers(vm string, disks []DiskName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.others == nil {
		s.others = map[string][]DiskName{}
	}
	s.others[vm] = disks
}

func (s *status) setRing(ring func() tap.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ring = ring
}

// wait returns when the state is as asked, or ctx ends.
func (s *status) wait(ctx context.Context, ok func(*State) bool) error {
	return s.watch(ctx, func(s *status) bool { return ok(&s.state) })
}

// watch returns when ok does; ok is called with the lock held, at first and after every change.
func (s *status) watch(ctx context.Context, ok func(*status) bool) error {
	for {
		s.mu.Lock()
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		done, changed := ok(s), s.changed
		s.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Wait returns when the group is in one of the states, or ctx ends.
func (g *Group) Wait(ctx context.Context, states ...State) error {
	return g.status.wait(ctx, func(s *State) bool {
		for _, want := range states {
			if *s == want {
				return true
			}
		}
		return false
	})
}

// State is the state in Status, which costs more.
func (g *Group) State() State {
	g.status.mu.Lock()
	defer g.status.mu.Unlock()
	return g.status.state
}

// Status tells how the group is now. It asks nobody and never waits.
func (g *Group) Status() Status {
	s := &g.status
	s.mu.Lock()
	defer s.mu.Unlock()
	durable := g.log.DurableTimeline()
	out := Status{
		State: s.state, Reason: s.reason, Hint: s.hint,
		Epoch: durable.Epoch, Last: g.log.Appended(), Fenced: g.fences.seq(), Ranges: durable.Ranges,
	}
	for _, vm := range g.spec.VMs {
		out.Others = append(out.Others, s.others[vm.Name]...)
	}
	if s.ring != nil {
		out.Last = max(out.Last, s.ring().Last)
	}
	out.Durable, out.PointTime = g.point(&durable, out.Last)
	for _, v := range g.spec.Volumes {
		vs := VolumeStatus{Volume: v, State: s.state}
		if m := g.memo.volume(v.ID); m.Node != "" {
			vs.Node = m.Node
		}
		if now, ok := durable.Volume(v.ID); ok {
			vs.Size = now.Size() // it may have been resized since
		}
		if run, ok := s.syncs[v.ID]; ok {
			vs.Sync = &run
		}
		out.Volumes = append(out.Volumes, vs)
	}
	return out
}

// point is the newest durable point, and the newest moment at which nothing had
// been written after it.
func (g *Group) point(durable *journal.Timeline, last journal.Seq) (journal.Seq, time.Time) {
	newest, ok := durable.Newest()
	if !ok {
		return 0, time.Time{}
	}
	if whole, seq := g.fences.whole(); seq == newest {
		return newest, whole
	}
	if durable.LastFence.Seq == newest {
		return newest, time.Unix(0, durable.LastFence.Wall)
	}
	return newest, time.Time{}
}
