package hub

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/journal"
)

// Info implements api.Service.
func (h *Hub) Info(ctx context.Context) (api.Info, error) {
	in := api.Info{
		Version: h.cfg.Version, Data: h.cfg.Data, PID: os.Getpid(), Started: h.started,
		NBD: h.where.NBD, API: h.where.API, Agents: append([]string{}, h.where.Agents...), Keeper: h.keeperStatus(),
	}
	in.Catalog = api.CatalogStatus{Available: true, Endpoints: h.cfg.Etcd}
	if h.super != nil {
		st := h.super.State()
		in.Catalog.Endpoints = []string{h.super.Endpoint()}
		in.Catalog.PID, in.Catalog.Restarts = st.PID, st.Restarts
	}
	ctx, cancel := context.WithTimeout(ctx, catalogPatience)
	defer cancel()
	if err := h.store.Ping(ctx); err != nil {
		in.Catalog.Available, in.Catalog.Reason = false, err.Error()
	}
	return in, nil
}

func (h *Hub) keeperStatus() api.KeeperStatus {
	connected, pid, err := h.keeper.State()
	st := api.KeeperStatus{Connected: connected, PID: pid}
	switch {
	case connected:
	case err != nil:
		st.Reason = err.Error()
	default:
		st.Reason = "not needed yet"
	}
	return st
}

// Status implements api.Service.
func (h *Hub) Status(ctx context.Context, group string) (api.Status, error) {
	st := api.Status{Groups: []api.GroupStatus{}}
	if since, err := h.watch.State(); err != nil {
		st.CatalogNote = fmt.Sprintf("the catalog has not answered since %s; protection goes on, VMs and groups cannot be added meanwhile: %v",
			since.UTC().Format(time.RFC3339), err)
	}
	if group != "" {
		e, err := h.find(group)
		if err != nil {
			return st, err
		}
		st.Groups = append(st.Groups, h.told(ctx, e))
		return st, nil
	}
	for _, e := range h.entries() {
		st.Groups = append(st.Groups, h.told(ctx, e))
	}
	return st, nil
}

// told is a group's status as users see it.
func (h *Hub) told(ctx context.Context, e *entry) api.GroupStatus {
	st := e.status()
	h.explain(ctx, e, &st)
	st.Agent = h.agents.name(ctx, e.record().Agent)
	st.Unprotected = h.uncovered(e, st.Unprotected)
	return st
}

// namesOf are volumes as VM/NODE.
func namesOf(disks []protect.DiskName) (names []string) {
	for _, d := range disks {
		names = append(names, d.VM+"/"+d.Disk)
	}
	return names
}

// uncovered is which of the volumes that a group does not have nobody protects,
// though all volumes of its VMs were meant.
func (h *Hub) uncovered(e *entry, names []string) []string {
	if r := e.record(); !r.Whole || r.Intent == catalog.IntentStop {
		return nil
	}
	return slices.DeleteFunc(names, func(n string) bool {
		vmName, disk, _ := strings.Cut(n, "/")
		return h.groupOf(vmName, disk) != ""
	})
}

// CreateCheckpoint implements api.Service.
func (h *Hub) CreateCheckpoint(ctx context.Context, group string, req api.CheckpointRequest) (api.Checkpoint, error) {
	e, err := h.find(group)
	if err != nil {
		return api.Checkpoint{}, err
	}
	if req.Name != "" {
		if err := checkName("checkpoint", req.Name); err != nil {
			return api.Checkpoint{}, err
		}
		if _, ok := journal.ParseAutoName(req.Name); ok {
			return api.Checkpoint{}, api.Errorf(api.CodeInvalid, "%s is the name of an automatic checkpoint", req.Name).WithHint("choose another name")
		}
	}
	quiesce, err := quiesceOf(req)
	if err != nil {
		return api.Checkpoint{}, err
	}
	g, err := e.usable()
	if err != nil {
		return api.Checkpoint{}, err
	}
	p, err := g.Checkpoint(ctx, req.Name, quiesce)
	if err != nil {
		return api.Checkpoint{}, err
	}
	// The journal is what counts; the catalog has a copy for others to read.
	record := catalog.Checkpoint{Name: p.Name, Seq: seqOf(p.Seq), Time: p.Time, Created: p.Time}
	ctx, cancel := context.WithTimeout(ctx, copyPatience)
	defer cancel()
	if err := h.store.AddCheckpoint(ctx, e.record().ID, record); err != nil {
		e.logger.Warn("note checkpoint in the catalog", "checkpoint", p.Name, "err", err)
	}
	return p, nil
}

const (
	defaultQuiesce = 10 * time.Second
	maxQuiesce     = 10 * time.Minute
)

// quiesceOf is how long a request waits for the guests to be frozen; 0: it does not
// want that.
func quiesceOf(req api.CheckpointRequest) (time.Duration, error) {
	d := time.Duration(req.QuiesceSeconds * float64(time.Second))
	switch {
	case !req.Quiesce:
		return 0, nil
	case d == 0:
		return defaultQuiesce, nil
	case d < 0 || d > maxQuiesce:
		return 0, api.Errorf(api.CodeInvalid, "a freeze that takes %gs", req.QuiesceSeconds).WithHint("wait for at most %s", maxQuiesce)
	}
	return d, nil
}

// RemoveCheckpoint implements api.Service.
func (h *Hub) RemoveCheckpoint(ctx context.Context, group, name string) error {
	e, err := h.find(group)
	if err != nil {
		return err
	}
	g, err := e.usable()
	if err != nil {
		return err
	}
	if err := g.RemoveCheckpoint(ctx, name); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, copyPatience)
	defer cancel()
	if err := h.store.RemoveCheckpoint(ctx, e.record().ID, name); err != nil {
		e.logger.Warn("forget checkpoint in the catalog", "checkpoint", name, "err", err)
	}
	return nil
}

// Task implements api.Service.
func (h *Hub) Task(ctx context.Context, id string, after uint64) (api.Task, error) {
	return h.tasks.follow(ctx, id, after)
}

// ListTasks implements api.Service.
func (h *Hub) ListTasks(context.Context) (api.Tasks, error) { return h.tasks.list(), nil }

// CancelTask implements api.Service.
func (h *Hub) CancelTask(_ context.Context, id string) (api.Task, error) { return h.tasks.stop(id) }
