package hub

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/drill"
	"github.com/rephub/rephub/internal/proof"
)

// drillsEvery is how often it is looked whether a drill is due.
const drillsEvery = time.Second

// drills are the failover tests that the hub makes by itself, every night.
type drills struct {
	hub *Hub
	now func() time.Time // in the time zone of this host
	// try makes a drill and returns when it has ended, however.
	try func(ctx context.Context, group string)

	wg   sync.WaitGroup    // of those that run
	said map[string]string // the last error of a group; of run alone

	mu      sync.Mutex
	running map[string]bool // by group
}

func newDrills(h *Hub) *drills {
	return &drills{hub: h, now: time.Now, try: h.drill, said: map[string]string{}, running: map[string]bool{}}
}

// run makes drills until ctx ends, and returns when they have.
func (d *drills) run(ctx context.Context) {
	defer d.wg.Wait()
	tick := time.NewTicker(drillsEvery)
	defer tick.Stop()
	for {
		d.look(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// restore reports on drills that an earlier hub had begun and of which nothing else is known: it was killed before the test began. They are not made again.
func (d *drills) restore() {
	for _, e := range d.hub.entries() {
		if e.drill == nil {
			continue
		}
		if s, ok := e.drill.Get(); !ok || !s.Open() {
			continue
		}
		if err := d.hub.failedTrial(e.record().Name, proof.Interrupted, "the hub ended before the drill began"); err != nil {
			e.logger.Error("report on a drill that was interrupted", "err", err)
		}
	}
}

// look begins the drills that are due.
func (d *drills) look(ctx context.Context) {
	for _, e := range d.hub.entries() {
		if e.drill == nil {
			continue
		}
		s, ok := e.drill.Get()
		if !ok {
			continue
		}
		now := d.now()
		due, ok := s.Due(now)
		if !ok {
			continue
		}
		if now.Sub(due) > drill.Grace {
			if d.said[e.record().Name] == "" {
				e.logger.Warn("a drill was missed: the hub was down when it was due", "due", due)
			}
			d.say(e, "note that a drill was missed", e.drill.Miss(due, now))
			continue
		}
		if err := d.begin(ctx, e, due); err == nil || api.AsError(err).Code != api.CodeConflict {
			d.say(e, "begin a drill; it is tried again", err)
		}
	}
}

// say logs an error once, not every second.
func (d *drills) say(e *entry, what string, err error) {
	name, text := e.record().Name, ""
	if err != nil {
		if text = err.Error(); d.said[name] != text {
			e.logger.Error(what, "err", err)
		}
	}
	d.said[name] = text
}

// begin makes a drill in the background. That it begins is durable before it does, so that it is not made twice.
func (d *drills) begin(ctx context.Context, e *entry, due time.Time) error {
	name := e.record().Name
	if !d.take(name) {
		return api.Errorf(api.CodeConflict, "a drill of group %s is running", name).WithHint("rephub task list shows it")
	}
	if err := e.drill.Begin(due); err != nil {
		d.release(name)
		return err
	}
	e.logger.Info("a drill begins", "due", due)
	d.wg.Go(func() {
		defer d.release(name)
		d.try(ctx, name)
	})
	return nil
}

// take keeps a second drill of a group from being made at the same time.
func (d *drills) take(group string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running[group] {
		return false
	}
	d.running[group] = true
	return true
}

func (d *drills) release(group string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.running, group)
}

func (d *drills) runs(group string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.running[group]
}

// drill makes a drill. Whatever becomes of it is in a report.
func (h *Hub) drill(ctx context.Context, group string) {
	t, err := h.beginDrill(group, nil)
	if err != nil {
		if err := h.failedTrial(group, proof.Failed, err.Error()); err != nil {
			h.cfg.Logger.Error("report on a drill that could not begin", "group", group, "err", err)
		}
		return
	}
	for !t.Finished() && ctx.Err() == nil {
		if t, err = h.tasks.follow(ctx, t.ID, t.Revision); err != nil {
			return // it has ended, long ago
		}
	}
}

func (h *Hub) beginDrill(group string, done func()) (api.Task, error) {
	e, err := h.findDrill(group)
	if err != nil {
		return api.Task{}, err
	}
	s, _ := e.drill.Get()
	return h.startTrial(group, "latest", trial{checks: s.Checks, stop: true, drill: true, done: done})
}

func (h *Hub) findDrill(group string) (*entry, error) {
	e, err := h.find(group)
	if err == nil && e.drill == nil {
		err = api.Errorf(api.CodeUnavailable, "the schedule of group %s could not be read: %v", group, e.drillErr)
	}
	return e, err
}

// ScheduleDrill implements api.Service.
func (h *Hub) ScheduleDrill(_ context.Context, group string, req api.DrillRequest) (api.Drill, error) {
	e, err := h.findDrill(group)
	if err != nil {
		return api.Drill{}, err
	}
	checks, err := checksOf(req.Check)
	if err != nil {
		return api.Drill{}, err
	}
	if _, _, err := drill.Parse(req.At); err != nil {
		return api.Drill{}, api.Errorf(api.CodeInvalid, "%v", err)
	}
	if err := e.drill.Set(req.At, checks, h.drills.now()); err != nil {
		return api.Drill{}, err
	}
	d, _ := h.drillOf(e)
	return d, nil
}

// ListDrills implements api.Service.
func (h *Hub) ListDrills(context.Context) (api.Drills, error) {
	l := api.Drills{Drills: []api.Drill{}}
	for _, e := range h.entries() {
		if d, ok := h.drillOf(e); ok {
			l.Drills = append(l.Drills, d)
		}
	}
	return l, nil
}

// RemoveDrill implements api.Service.
func (h *Hub) RemoveDrill(_ context.Context, group string) error {
	e, err := h.findDrill(group)
	if err != nil {
		return err
	}
	return noDrill(group, e.drill.Remove())
}

func noDrill(group string, err error) error {
	if errors.Is(err, drill.ErrNone) {
		return api.Errorf(api.CodeNotFound, "group %s has no drills", group).WithHint("rephub drill schedule %s --at 02:30", group)
	}
	return err
}

// RunDrill implements api.Service.
func (h *Hub) RunDrill(_ context.Context, group string) (api.Task, error) {
	e, err := h.findDrill(group)
	if err != nil {
		return api.Task{}, err
	}
	if !h.drills.take(group) {
		return api.Task{}, api.Errorf(api.CodeConflict, "a drill of group %s is running", group).WithHint("rephub task list shows it")
	}
	if err := noDrill(group, e.drill.Begin(h.drills.now())); err != nil {
		h.drills.release(group)
		return api.Task{}, err
	}
	t, err := h.beginDrill(group, func() { h.drills.release(group) })
	if err != nil {
		h.drills.release(group)
		if rerr := h.failedTrial(group, proof.Failed, err.Error()); rerr != nil {
			h.cfg.Logger.Error("report on a drill that could not begin", "group", group, "err", rerr)
		}
	}
	return t, err
}

func (h *Hub) drillOf(e *entry) (api.Drill, bool) {
	if e.drill == nil {
		return api.Drill{}, false
	}
	s, ok := e.drill.Get()
	if !ok {
		return api.Drill{}, false
	}
	name := e.record().Name
	d := api.Drill{Group: name, At: s.At, Next: s.Next(h.drills.now()).UTC(), Running: h.drills.runs(name)}
	if c := s.Checks; c != (proof.Checks{}) {
		d.Check = &api.Checks{Command: c.Command, Agent: c.Agent, Screen: c.Screen, Serial: c.Serial, TimeoutSeconds: c.Timeout.Seconds()}
	}
	if o := s.Last; o != nil {
		d.Last = &api.DrillResult{Due: o.Due, Ended: o.Ended, Outcome: string(o.Outcome), Reason: o.Reason, RTOSeconds: o.RTO.Seconds(), Report: o.Report}
	}
	if !s.Success.IsZero() {
		d.LastSuccess = &s.Success
	}
	return d, true
}
