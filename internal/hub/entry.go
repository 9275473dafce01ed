package hub

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/drill"
	"github.com/rephub/rephub/internal/plan"
)

// entry is a group in the hub: its record, and the group itself unless it could
// not be opened.
type entry struct {
	dir     string
	logger  *slog.Logger
	openErr error       // why there is no group
	plan    *plan.Store // nil when it could not be read
	planErr error       // why
	// drill is when the group is tested, nil when that could not be read, and why.
	drill    *drill.Store
	drillErr error

	// changes serialises what changes the group: pause, resume, removal.
	changes chan struct{}
	running sync.WaitGroup
	ctx     context.Context // of what runs; set by start
	stop    context.CancelFunc
	ended   chan struct{} // closed when the last run has ended; guarded by changes

	mu struct {
		sync.Mutex
		record  groupRecord
		group   Group   // nil when it could not be opened
		runErr  error   // why Run ended by itself
		cut     cutting // of the history, the last one
		users   int     // mounts and exports that are being made
		removed bool    // no new users
		// planReasons is why VMs could not be asked for the plan, by name.
		planReasons map[string]string
	}
}

func newEntry(dir string, r groupRecord, logger *slog.Logger) *entry {
	e := &entry{dir: dir, logger: logger.With("group", r.Name), changes: make(chan struct{}, 1), stop: func() {}}
	e.mu.record = r
	return e
}

func (e *entry) record() groupRecord {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mu.record
}

// current is the group, nil when it could not be opened. Who protects it may change, its files are the same all the while.
func (e *entry) current() Group {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mu.group
}

func (e *entry) setGroup(g Group) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.group = g
}

func (e *entry) setRecord(r groupRecord) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.record = r
}

// hold begins a change; release ends it.
func (e *entry) hold(ctx context.Context) (release func(), err error) {
	select {
	case e.changes <- struct{}{}:
		return func() { <-e.changes }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// start runs the group and its retention until stop. Mounts of a group hold
// its files open, so it is opened once and may run several times.
func (e *entry) start(ctx context.Context, retainEvery time.Duration) {
	if e.current() == nil {
		return
	}
	e.ctx, e.stop = context.WithCancel(ctx)
	e.running.Go(func() { e.retain(e.ctx, retainEvery) })
	if r := e.record(); r.lives() {
		e.live()
	}
}

// live runs the group in the background, after an earlier run has ended.
func (e *entry) live() {
	ended := make(chan struct{})
	e.ended = ended
	e.running.Go(func() {
		defer close(ended)
		err := e.current().Run(e.ctx)
		// Of a group that has failed over, others go on with the files.
		if i := e.record().Intent; e.ctx.Err() == nil && (i == catalog.IntentProtect || i == catalog.IntentPause) {
			e.logger.Error("protection ended by itself", "err", err)
			e.setRunErr(fmt.Errorf("protection ended by itself: %w", err))
		}
	})
}

// again runs a group that was stopped. The caller holds the entry.
func (e *entry) again() error {
	if e.ended != nil {
		select {
		case <-e.ended:
		case <-e.ctx.Done():
			return e.ctx.Err()
		}
	}
	if err := e.current().Again(); err != nil {
		return err
	}
	e.setRunErr(nil)
	e.live()
	return nil
}

func (e *entry) setRunErr(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.runErr = err
}

// retain cuts the history until ctx ends. The same error is said once.
func (e *entry) retain(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	began := time.Now()
	last := ""
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		r := e.record()
		now, ok := ages(r, began, time.Since(began), time.Now())
		if !ok {
			e.setCut(cutting{})
			continue
		}
		held, err := e.current().Retain(ctx, now, r.History)
		e.setCut(cutting{held, err})
		text := ""
		if err != nil && ctx.Err() == nil {
			text = err.Error()
			if text != last {
				e.logger.Error("cut history", "err", err)
			}
		}
		last = text
	}
}

func (e *entry) setCut(c cutting) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.cut = c
}

func (e *entry) lastCut() cutting {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mu.cut
}

// ages tells by which time a group's history is cut; false: not at all. A
// history that was kept stays as it is, for nothing new takes its place. The
// wall clock may be set forward by mistake: history ages as fast as time passes,
// not faster.
func ages(r groupRecord, began time.Time, passed time.Duration, now time.Time) (time.Time, bool) {
	began, now = began.Round(0), now.Round(0) // wall clocks only
	if steady := began.Add(passed); steady.Before(now) {
		now = steady
	}
	return now, r.Intent != catalog.IntentStop && r.Intent != catalog.IntentFailover
}

// close ends the group and gives its files back; taps stay.
func (e *entry) close() error {
	e.stop()
	e.running.Wait()
	if e.plan != nil {
		e.plan.Close()
	}
	if e.drill != nil {
		e.drill.Close()
	}
	if e.current() == nil {
		return nil
	}
	return e.current().Close()
}

// usable is the group, or why there is none.
func (e *entry) usable() (Group, error) {
	if g := e.current(); g != nil {
		return g, nil
	}
	return nil, api.Errorf(api.CodeUnavailable, "group %s could not be opened: %v", e.record().Name, e.openErr).
		WithHint("see rephub journal check %s", e.dir)
}

// enter keeps the group from being removed until leave.
func (e *entry) enter() (leave func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.removed {
		return nil, api.Errorf(api.CodeNotFound, "group %s is being removed", e.mu.record.Name)
	}
	e.mu.users++
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.mu.users--
	}, nil
}

// seal lets nobody enter any more, unless somebody is in.
func (e *entry) seal() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.users > 0 {
		return api.Errorf(api.CodeConflict, "group %s is being mounted or exported", e.mu.record.Name).
			WithHint("wait for it, or cancel it: rephub task list")
	}
	e.mu.removed = true
	return nil
}

func (e *entry) unseal() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.removed = false
}

// status is the group's, with what only the hub knows.
func (e *entry) status() api.GroupStatus {
	r := e.record()
	var st api.GroupStatus
	if e.current() != nil {
		st = e.current().Status()
	} else {
		st = unopened(r, e.openErr, e.dir)
	}
	if e.current() != nil && r.Intent == catalog.IntentStop && st.State == api.StateDegraded {
		st.State, st.Reason, st.Hint = api.StateStopped, "protection was ended, its history is kept", ""
		for i := range st.Volumes {
			st.Volumes[i].State = api.StateStopped
		}
	}
	if r.Intent == catalog.IntentFailover {
		st.State = api.StateFailedOver
		st.Reason, st.Hint = "its VMs run from a point on the hub's host, and what comes from where they were is not taken", "rephub failover list shows them; rephub failover commit "+r.Name+" keeps them, rephub failover rollback "+r.Name+" takes them back"
		for i := range st.Volumes {
			st.Volumes[i].State = api.StateFailedOver
		}
	}
	e.mu.Lock()
	if e.mu.runErr != nil && r.Intent == catalog.IntentProtect {
		st.State, st.Reason, st.Hint = api.StateDegraded, e.mu.runErr.Error(), "restart the hub"
	}
	e.mu.Unlock()
	st.Name, st.ID, st.HistorySeconds = r.Name, r.ID.String(), r.History.Seconds()
	st.CheckpointEverySeconds = checkpointEvery(&r).Seconds()
	if st.Ranges == nil {
		st.Ranges = [][2]uint64{}
	}
	if st.Volumes == nil {
		st.Volumes = []api.VolumeStatus{}
	}
	return st
}
