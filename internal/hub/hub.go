package hub

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/drill"
	"github.com/rephub/rephub/internal/failover"
	"github.com/rephub/rephub/internal/files"
	"github.com/rephub/rephub/internal/guest"
	"github.com/rephub/rephub/internal/keeper"
	"github.com/rephub/rephub/internal/plan"
	"github.com/rephub/rephub/internal/proof"
	"github.com/rephub/rephub/internal/recovery"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/journal"
)

// Hub is a running hub; it is the api.Service.
type Hub struct {
	cfg     Config
	data    *dataDir
	started time.Time
	super   *catalog.Supervisor // nil with a cluster of somebody else's
	store   *catalog.Store
	watch   *catalog.Watch
	keeper  *keeper.Link
	beside  func() // Config.BesideVMs, once
	mounts  *recovery.Mounts
	files   *files.Readers
	tasks   *tasks
	vms     *vm.Pool
	agents  *agents
	where   Ready
	freezer *guest.Freezer
	// failovers are the VMs that run here from points.
	failovers *failover.Failovers
	reports   *proof.Store // of failover tests
	drills    *drills

	creating sync.Mutex // held while a new group is listed

	mu struct {
		sync.Mutex
		groups  map[string]*entry // by name
		running context.Context   // of the groups; nil before they may run
	}
}

var _ api.Service = (*Hub)(nil)

// newHub puts the parts together; nothing runs yet.
func newHub(ctx context.Context, cfg Config, data *dataDir, where Ready) (h *Hub, err error) {
	h = &Hub{cfg: cfg, data: data, started: time.Now().UTC(), where: where, tasks: newTasks(ctx, cfg.Logger), beside: sync.OnceFunc(cfg.BesideVMs)}
	h.mu.groups = map[string]*entry{}
	h.vms = vm.NewPool(openMonitor)
	endpoints := cfg.Etcd
	if len(endpoints) == 0 {
		h.super, err = catalog.NewSupervisor(catalog.SupervisorConfig{Dir: data.join("catalog"), Exe: cfg.Exe, Logger: cfg.Logger})
		if err != nil {
			return nil, err
		}
		endpoints = []string{h.super.Endpoint()}
	}
	if h.store, err = catalog.Open(catalog.Config{Endpoints: endpoints, Hub: data.id}); err != nil {
		return nil, err
	}
	h.watch = catalog.NewWatch(h.store, h.watchConfig())
	h.keeper = keeper.NewLink(keeper.ClientConfig{Dir: data.join("keeper"), Exe: cfg.Exe, Logger: cfg.Logger})
	h.mounts, err = recovery.New(recovery.Config{
		Dir: data.join("mounts"), Endpoints: where.NBD, Records: mountRecords{h.store}, Logger: cfg.Logger,
	})
	h.files = files.New(files.Config{Exe: cfg.Exe, Logger: cfg.Logger})
	h.failovers, h.drills = h.newFailovers(), newDrills(h)
	if err == nil {
		h.reports, err = proof.Open(vfs.OS(), data.join("reports"), cfg.Logger)
	}
	if err == nil {
		h.freezer, err = guest.New(guest.Config{Dir: data.join("freezes"), Exe: cfg.Exe, FS: vfs.OS(), Logger: cfg.Logger})
	}
	if err == nil {
		h.agents, err = h.newAgents()
	}
	if err != nil {
		return nil, errors.Join(err, h.store.Close())
	}
	return h, nil
}

// watchConfig has our own server started again when it hangs; of a cluster of
// somebody else's we only say so.
func (h *Hub) watchConfig() catalog.WatchConfig {
	cfg := catalog.WatchConfig{Patience: h.cfg.CatalogPatience, Logger: h.cfg.Logger}
	cfg.Every = min(cfg.Patience/3, 3*time.Second)
	if h.super != nil {
		cfg.Hung = h.super.Restart
	}
	return cfg
}

// find is a group, by its name.
func (h *Hub) find(name string) (*entry, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.mu.groups[name]
	if !ok {
		return nil, api.Errorf(api.CodeNotFound, "no such group: %s", name).WithHint("rephub status lists the groups")
	}
	return e, nil
}

// findID is a group, by its identity.
func (h *Hub) findID(id journal.GroupID) (*entry, error) {
	for _, e := range h.entries() {
		if e.record().ID == id {
			return e, nil
		}
	}
	return nil, api.Errorf(api.CodeNotFound, "no such group: %s", id)
}

// entries are all groups, by name.
func (h *Hub) entries() []*entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	return sortedEntries(h.mu.groups)
}

// add puts an opened group in the list, and runs it if groups run already.
func (h *Hub) add(e *entry) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	name := e.record().Name
	if _, ok := h.mu.groups[name]; ok {
		return api.Errorf(api.CodeConflict, "there is a group %s already", name)
	}
	h.mu.groups[name] = e
	if h.mu.running != nil {
		e.start(h.mu.running, h.cfg.RetainEvery)
	}
	return nil
}

func (h *Hub) drop(e *entry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.mu.groups, e.record().Name)
}

// startGroups runs all groups, and those that are added later.
func (h *Hub) startGroups(ctx context.Context) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.running = ctx
	for _, e := range h.mu.groups {
		e.start(ctx, h.cfg.RetainEvery)
	}
}

// open opens a group's files. A group that cannot be opened is listed with the
// reason.
func (h *Hub) open(ctx context.Context, r groupRecord, create bool) *entry {
	return h.openSeeded(ctx, r, create, nil)
}

func (h *Hub) openSeeded(ctx context.Context, r groupRecord, create bool, s seeds) *entry {
	e := newEntry(h.data.join("groups", r.Name), r, h.cfg.Logger)
	deps := h.groupDeps(e.dir, r, create)
	deps.Seeds = s
	g, err := h.cfg.OpenGroup(ctx, deps)
	if e.openErr = err; err != nil {
		e.logger.Error("open group", "err", err)
	} else {
		e.setGroup(g)
	}
	if e.plan, e.planErr = plan.Open(vfs.OS(), e.dir); e.planErr != nil {
		e.logger.Error("read the recovery plan; protection goes on", "err", e.planErr)
	}
	if e.drill, e.drillErr = drill.OpenStore(vfs.OS(), e.dir); e.drillErr != nil {
		e.logger.Error("read the schedule of drills; protection goes on", "err", e.drillErr)
	}
	return e
}

func (h *Hub) groupDeps(dir string, r groupRecord, create bool) GroupDeps {
	return GroupDeps{
		Dir: dir, Create: create, Record: r, RunDir: h.data.join("run"),
		OpenVM: h.vms.Get, Keeper: h.ownKeeper, GrantEpoch: h.store.GrantEpoch, Agents: h.agents, Freezer: h.freezer, Logger: h.cfg.Logger,
	}
}

// ownKeeper is the tap keeper for the VMs of this machine.
func (h *Hub) ownKeeper(ctx context.Context) (*keeper.Client, error) {
	h.beside()
	return h.keeper.Get(ctx)
}

// catalogError says to clients what the catalog's errors mean.
func catalogError(err error) error {
	switch {
	case errors.Is(err, catalog.ErrUnavailable):
		return api.Errorf(api.CodeUnavailable, "%v", err).
			WithHint("protection goes on without the catalog; see the hub's log, and whether its disk is full")
	case errors.Is(err, catalog.ErrNotFound):
		return api.Errorf(api.CodeNotFound, "%v", err)
	case errors.Is(err, catalog.ErrExists):
		return api.Errorf(api.CodeConflict, "%v", err)
	}
	return err
}

// closeAll gives everything back, after nothing runs any more.
func (h *Hub) closeAll() error {
	errs := []error{h.mounts.Close()}
	for _, e := range h.entries() {
		if err := e.close(); err != nil {
			errs = append(errs, fmt.Errorf("close group %s: %w", e.record().Name, err))
		}
	}
	return errors.Join(append(errs, h.keeper.Close(), h.store.Close())...)
}
