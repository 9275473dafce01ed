package hub

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/api"
)

const (
	keptTasks    = 100 // finished ones that are remembered
	runningTasks = 64  // at once
)

// tasks runs long work and remembers how the last of it ended.
type tasks struct {
	ctx    context.Context // of all tasks; the hub's
	logger *slog.Logger
	done   sync.WaitGroup

	mu struct {
		sync.Mutex
		byID  map[string]*task
		order []*task // oldest first
	}
}

type task struct {
	cancel context.CancelFunc
	kind   string

	mu struct {
		sync.Mutex
		api.Task
		changed chan struct{} // closed and replaced with every revision
	}
}

// work is what a task does. Its result goes to the client as JSON.
type work func(ctx context.Context, progress func(api.Progress)) (result any, err error)

func newTasks(ctx context.Context, logger *slog.Logger) *tasks {
	t := &tasks{ctx: ctx, logger: logger}
	t.mu.byID = map[string]*task{}
	return t
}

// start begins work; it goes on when the caller is gone.
func (t *tasks) start(kind, group string, w work) (api.Task, error) {
	ctx, cancel := context.WithCancel(t.ctx)
	one := &task{cancel: cancel, kind: kind}
	now := time.Now().UTC()
	one.mu.Task = api.Task{
		ID: strings.ToLower(rand.Text()[:12]), Kind: kind, Group: group,
		State: api.TaskRunning, Revision: 1, Created: now, Updated: now,
	}
	one.mu.changed = make(chan struct{})
	if err := t.add(one); err != nil {
		cancel()
		return api.Task{}, err
	}
	first := one.get()
	t.done.Go(func() {
		defer cancel()
		result, err := w(ctx, func(p api.Progress) { one.change(func(a *api.Task) { a.Progress = p }) })
		one.end(ctx, result, err)
		last := one.get()
		t.logger.Info("task ended", "task", last.ID, "kind", kind, "group", group, "state", last.State, "err", err)
	})
	return first, nil
}

func (t *tasks) add(one *task) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return api.Errorf(api.CodeUnavailable, "the hub is stopping")
	}
	running := 0
	for _, o := range t.mu.order {
		if o.get().State == api.TaskRunning {
			running++
		}
	}
	if running >= runningTasks {
		return api.Errorf(api.CodeUnavailable, "%d tasks are running", running).WithHint("wait for some of them to end: rephub task list")
	}
	t.mu.byID[one.mu.ID] = one
	t.mu.order = append(t.mu.order, one)
	kept := t.mu.order[:0]
	over := len(t.mu.order) - running - 1 - keptTasks
	for _, o := range t.mu.order {
		if over > 0 && o.get().State != api.TaskRunning {
			delete(t.mu.byID, o.mu.ID)
			over--
			continue
		}
		kept = append(kept, o)
	}
	t.mu.order = kept
	return nil
}

// stopping says that the hub is, so that tasks that end now were not cancelled
// by a user.
func (t *tasks) stopping() bool { return t.ctx.Err() != nil }

// wait returns when all tasks have ended; the context of tasks must have.
func (t *tasks) wait() { t.done.Wait() }

func (t *tasks) find(id string) (*task, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	one, ok := t.mu.byID[id]
	if !ok {
		return nil, api.Errorf(api.CodeNotFound, "no such task: %s", id).WithHint("rephub task list shows them; a restarted hub has forgotten them")
	}
	return one, nil
}

// follow returns the task once its revision is above after, or as it is when
// ctx ends.
func (t *tasks) follow(ctx context.Context, id string, after uint64) (api.Task, error) {
	one, err := t.find(id)
	if err != nil {
		return api.Task{}, err
	}
	for {
		now, changed := one.look()
		if now.Revision > after || now.Finished() {
			return now, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return now, nil
		case <-t.ctx.Done():
			return now, nil
		}
	}
}

func (t *tasks) list() api.Tasks {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := api.Tasks{Tasks: []api.Task{}}
	for i := len(t.mu.order) - 1; i >= 0; i-- {
		l.Tasks = append(l.Tasks, t.mu.order[i].get())
	}
	return l
}

// stop asks a task to end.
func (t *tasks) stop(id string) (api.Task, error) {
	one, err := t.find(id)
	if err != nil {
		return api.Task{}, err
	}
	one.cancel()
	return one.get(), nil
}

func (o *task) get() api.Task {
	now, _ := o.look()
	return now
}

func (o *task) look() (api.Task, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mu.Task, o.mu.changed
}

func (o *task) change(edit func(*api.Task)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	edit(&o.mu.Task)
	o.mu.Revision++
	o.mu.Updated = time.Now().UTC()
	close(o.mu.changed)
	o.mu.changed = make(chan struct{})
}

// end notes how the work ended.
func (o *task) end(ctx context.Context, result any, err error) {
	var raw json.RawMessage
	if err == nil && result != nil {
		if raw, err = json.Marshal(result); err != nil {
			err = fmt.Errorf("encode result: %w", err)
		}
	}
	o.change(func(a *api.Task) {
		switch {
		case err == nil:
			a.State, a.Result = api.TaskDone, raw
		case ctx.Err() != nil:
			a.State, a.Error = api.TaskCancelled, api.Errorf(api.CodeCancelled, "the %s was cancelled", a.Kind)
		default:
			a.State, a.Error = api.TaskFailed, api.AsError(err)
		}
	})
}
