package hub

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
)

// entry is a group in the hub: its record, and the group itself unless it could
// not be opened.
type entry struct {
	dir     string
	logger  *slog.Logger
	group   Group // nil when it could not be opened
	openErr error // why

	// changes serialises what changes the group: pause, resume, removal.
	changes chan struct{}
	stop    context.CancelFunc
	running sync.WaitGroup

	mu struct {
		sync.Mutex
		record groupRecord
		runErr error // why Run ended by itself
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

func (e *entry) setIntent(i catalog.Intent) groupRecord {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.record.Intent = i
	return e.mu.record
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

// start runs the group and its retention until stop.
func (e *entry) start(ctx context.Context, retainEvery time.Duration) {
	if e.group == nil {
		return
	}
	ctx, e.stop = context.WithCancel(ctx)
	e.running.Go(func() {
		err := e.group.Run(ctx)
		if ctx.Err() == nil {
			e.logger.Error("protection ended by itself", "err", err)
			e.mu.Lock()
			e.mu.runErr = fmt.Errorf("protection ended by itself: %w", err)
			e.mu.Unlock()
		}
	})
	e.running.Go(func() { e.retain(ctx, retainEvery) })
}

// retain cuts the history until ctx ends. The same error is said once.
func (e *entry) retain(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := ""
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		err := e.group.Retain(ctx, time.Now(), e.record().History)
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

// close ends the group and gives its files back; taps stay.
func (e *entry) close() error {
	e.stop()
	e.running.Wait()
	if e.group == nil {
		return nil
	}
	return e.group.Close()
}

// usable is the group, or why there is none.
func (e *entry) usable() (Group, error) {
	if e.group != nil {
		return e.group, nil
	}
	return nil, api.Errorf(api.CodeUnavailable, "group %s could not be opened: %v", e.record().Name, e.openErr).
		WithHint("see rephub journal check %s", e.dir)
}

// status is the group's, with what only the hub knows.
func (e *entry) status() api.GroupStatus {
	r := e.record()
	var st api.GroupStatus
	if e.group != nil {
		st = e.group.Status()
	} else {
		st = api.GroupStatus{State: api.StateDegraded, Reason: e.openErr.Error(), Hint: "see rephub journal check " + e.dir}
		for _, v := range r.Volumes {
			st.Volumes = append(st.Volumes, api.VolumeStatus{
				Name: v.Name, UUID: v.UUID, VM: v.VM, Node: v.Node, Size: v.Size, State: api.StateDegraded,
			})
		}
	}
	e.mu.Lock()
	if e.mu.runErr != nil && r.Intent == catalog.IntentProtect {
		st.State, st.Reason, st.Hint = api.StateDegraded, e.mu.runErr.Error(), "restart the hub"
	}
	e.mu.Unlock()
	st.Name, st.ID, st.HistorySeconds = r.Name, r.ID.String(), r.History.Seconds()
	if st.Ranges == nil {
		st.Ranges = [][2]uint64{}
	}
	if st.Volumes == nil {
		st.Volumes = []api.VolumeStatus{}
	}
	return st
}
