package hub

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/journal"
)

const (
	defaultHistory = 24 * time.Hour
	// attachPatience bounds how long a new group may take to get its taps.
	attachPatience = 45 * time.Second
)

// Protect implements api.Service. The request is checked before the task is
// made, so that mistakes are told at once.
func (h *Hub) Protect(ctx context.Context, req api.ProtectRequest) (api.Task, error) {
	if len(req.VMs) == 0 {
		return api.Task{}, api.Errorf(api.CodeInvalid, "no VM is named")
	}
	name := req.Group
	if name == "" {
		name = req.VMs[0]
	}
	if err := checkName("group", name); err != nil {
		return api.Task{}, err
	}
	every, err := everyOf(req.CheckpointEverySeconds)
	if err != nil {
		return api.Task{}, err
	}
	if e, err := h.find(name); err == nil {
		return h.protectAgain(ctx, e, req)
	}
	r := groupRecord{Group: catalog.Group{
		CheckpointEvery: every,
		ID:              newGroupID(), Name: name, Hub: h.data.id, Intent: catalog.IntentProtect,
		History: historyOf(req), Created: time.Now().UTC(), Whole: len(req.Volumes) == 0,
	}}
	for i, vmName := range req.VMs {
		if slices.Contains(req.VMs[:i], vmName) {
			return api.Task{}, api.Errorf(api.CodeInvalid, "VM %s is named twice", vmName)
		}
		if err := h.choose(ctx, &r, vmName, req.Volumes); err != nil {
			return api.Task{}, err
		}
	}
	if err := checkChosen(&r, req.Volumes); err != nil {
		return api.Task{}, err
	}
	old, err := findSeeds(ctx, &r, req.Seeds)
	if err != nil {
		return api.Task{}, err
	}
	return h.tasks.start("protect", name, func(ctx context.Context, progress func(api.Progress)) (any, error) {
		return nil, h.create(ctx, r, old, progress)
	})
}

func newGroupID() (id journal.GroupID) {
	u, err := uuid.NewRandomFromReader(rand.Reader)
	if err != nil {
		panic(err) // the system's random numbers never fail
	}
	copy(id[:], u[:])
	return id
}

func historyOf(req api.ProtectRequest) time.Duration {
	if req.HistorySeconds > 0 {
		return time.Duration(req.HistorySeconds * float64(time.Second))
	}
	return defaultHistory
}

// choose adds the wanted volumes of a VM to the record.
func (h *Hub) choose(ctx context.Context, r *groupRecord, vmName string, wanted []string) error {
	record, err := h.findVM(ctx, vmName)
	if err != nil {
		return err
	}
	if len(r.VMs) > 0 && r.Agent != record.Agent {
		return api.Errorf(api.CodeRefused, "VM %s runs on another host than %s", vmName, r.VMs[0].Name).
			WithHint("make a group for each host: the order of writes is kept among VMs of one host")
	}
	r.Agent = record.Agent
	seen, err := h.inspect(ctx, record)
	if err != nil {
		return err
	}
	for _, v := range seen.Volumes {
		if len(wanted) > 0 && !slices.ContainsFunc(wanted, func(w string) bool { return names(w, vmName, v.Name, v.Node) }) {
			continue
		}
		if g := h.groupOf(vmName, v.Name); g != "" {
			return protectedBy(vmName+"/"+v.Name, g)
		}
		r.Volumes = append(r.Volumes, catalog.Volume{
			UUID: uuid.NewString(), ID: journal.VolumeID(len(r.Volumes) + 1), Name: vmName + "/" + v.Name,
			VM: vmName, Disk: v.Name, Node: v.Node, Size: v.Size,
		})
	}
	record.UUID = seen.UUID
	r.VMs = append(r.VMs, record)
	return nil
}

// names says whether a --volume means this volume.
func names(wanted, vmName, disk, node string) bool {
	return wanted == disk || wanted == node || wanted == vmName+"/"+disk || wanted == vmName+"/"+node
}

func checkChosen(r *groupRecord, wanted []string) error {
	if len(r.Volumes) == 0 && len(wanted) == 0 {
		return api.Errorf(api.CodeConflict, "the VM has no writable volume").WithHint("rephub vm list shows what it has")
	}
	for _, w := range wanted {
		if !slices.ContainsFunc(r.Volumes, func(v catalog.Volume) bool {
			return names(w, v.VM, v.Disk, v.Node)
		}) {
			return api.Errorf(api.CodeNotFound, "no such volume: %s", w).WithHint("rephub vm list shows the volumes")
		}
	}
	return nil
}

// create makes a group and waits for its taps. If they cannot be had nothing
// is left of it.
func (h *Hub) create(ctx context.Context, r groupRecord, old seeds, progress func(api.Progress)) (err error) {
	if len(old) > 0 {
		dir := h.data.join("groups", removedPrefix+"seed-"+r.ID.String())
		if old, err = old.copyTo(ctx, dir, progress); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	progress(api.Progress{Step: "making the group"})
	// The folder first: while another group's history is in it, the catalog must
	// not have it under this group's name.
	dir := h.data.join("groups", r.Name)
	if err := makeFolder(dir); err != nil {
		return err
	}
	if err := h.store.AddGroup(ctx, r.Group); err != nil {
		if errors.Is(err, catalog.ErrExists) { // not here, so in a catalog that hubs share
			err = api.Errorf(api.CodeConflict, "another hub has a group %s in this catalog", r.Name).
				WithHint("choose another name with --group")
		}
		return errors.Join(catalogError(err), os.Remove(dir))
	}
	err = writeRecord(dir, r)
	if err == nil && r.Agent != "" {
		// An agent forgets a group only if the catalog once knew it, see forgetAtAgent.
		_, err = h.store.GrantEpoch(ctx, r.ID, 0)
		err = catalogError(err)
	}
	if err != nil {
		return errors.Join(err, h.store.RemoveGroup(context.WithoutCancel(ctx), r.ID), os.RemoveAll(dir))
	}
	e := h.openSeeded(ctx, r, true, old)
	err = e.openErr
	if err == nil {
		err = h.addNew(e)
	}
	if err != nil {
		return errors.Join(err, e.close(), h.store.RemoveGroup(context.WithoutCancel(ctx), r.ID), os.RemoveAll(dir))
	}
	progress(api.Progress{Step: "attaching"})
	err = h.attached(ctx, e)
	if err == nil {
		h.notePlans(ctx, e)
	}
	if err == nil || h.tasks.stopping() {
		return err // a hub that stops here goes on with the group when it is back
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), attachPatience)
	defer cancel()
	return errors.Join(err, h.remove(bounded, e, false))
}

// addNew lists a new group, unless another has got one of its volumes since it was
// asked for.
func (h *Hub) addNew(e *entry) error {
	h.creating.Lock()
	defer h.creating.Unlock()
	for _, v := range e.record().Volumes {
		if g := h.groupOf(v.VM, v.Disk); g != "" {
			return protectedBy(v.Name, g)
		}
	}
	return h.add(e)
}

func protectedBy(volume, group string) error {
	return api.Errorf(api.CodeConflict, "volume %s is protected by group %s", volume, group).
		WithHint("name other volumes with --volume, or rephub unprotect %s first", group)
}

// makeFolder makes the folder of a new group. One that is there already may
// hold a history whose record cannot be read: it is not touched.
func makeFolder(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrExist) && os.Remove(dir) == nil { // it was empty
		err = os.Mkdir(dir, 0o700)
	}
	if errors.Is(err, os.ErrExist) {
		return api.Errorf(api.CodeConflict, "there is a folder %s already, of a group that is not listed", dir).
			WithHint("choose another name with --group; the hub's log says what is wrong with it, and rephub journal check %s", dir)
	}
	if err != nil {
		return fmt.Errorf("make the group's folder: %w", err)
	}
	return nil
}

// attached waits for a group's taps, and says why they are not there.
func (h *Hub) attached(ctx context.Context, e *entry) error {
	bounded, cancel := context.WithTimeout(ctx, attachPatience)
	defer cancel()
	err := e.current().Started(bounded)
	if err == nil || ctx.Err() != nil {
		return err
	}
	st := e.status()
	return api.Errorf(api.CodeUnavailable, "group %s could not be attached: %s", st.Name, st.Reason).WithHint("%s", st.Hint)
}

// protectAgain goes on with a group whose history was kept.
func (h *Hub) protectAgain(ctx context.Context, e *entry, req api.ProtectRequest) (t api.Task, err error) {
	r := e.record()
	if r.Intent == catalog.IntentFailover {
		return api.Task{}, failedOver(r.Name)
	}
	if r.Intent != catalog.IntentStop {
		return api.Task{}, api.Errorf(api.CodeConflict, "there is a group %s already", r.Name).
			WithHint("choose another name with --group; rephub status %s shows it", r.Name)
	}
	for _, v := range r.Volumes {
		if !slices.Contains(req.VMs, v.VM) {
			return api.Task{}, api.Errorf(api.CodeConflict, "the history of group %s has volumes of VM %s", r.Name, v.VM).
				WithHint("name the same VMs, or choose another name with --group")
		}
		if g := h.groupOf(v.VM, v.Disk); g != "" {
			return api.Task{}, api.Errorf(api.CodeConflict, "volume %s is protected by group %s by now", v.Name, g).
				WithHint("rephub unprotect %s first", g)
		}
	}
	if _, err := e.usable(); err != nil {
		return api.Task{}, err
	}
	if len(req.Seeds) > 0 {
		return api.Task{}, api.Errorf(api.CodeInvalid, "group %s has a history, so it needs no seed: it is compared with that", r.Name)
	}
	now := r
	if now.VMs, now.Agent, err = h.locateAll(ctx, r.VMs); err != nil {
		return api.Task{}, err
	}
	return h.tasks.start("protect", r.Name, func(ctx context.Context, progress func(api.Progress)) (any, error) {
		release, err := e.hold(ctx)
		if err != nil {
			return nil, err
		}
		defer release()
		progress(api.Progress{Step: "attaching"})
		if req.CheckpointEverySeconds != nil {
			every, err := everyOf(req.CheckpointEverySeconds)
			if err == nil {
				err = h.setCheckpointEvery(ctx, e, every)
			}
			if err != nil {
				return nil, err
			}
		}
		if elsewhere(&r, &now) {
			there := e.record()
			there.VMs, there.Agent, there.Intent = now.VMs, now.Agent, catalog.IntentProtect
			if err := h.rebind(ctx, e, there); err != nil {
				return nil, err
			}
			return nil, h.attached(ctx, e)
		}
		if err := h.mean(ctx, e, catalog.IntentProtect); err != nil {
			return nil, err
		}
		if err := e.again(); err != nil {
			return nil, err
		}
		return nil, h.attached(ctx, e)
	})
}

// goal is a task that changes what a group is meant to do.
func (h *Hub) goal(kind string, e *entry, intent catalog.Intent, change func(context.Context, Group) error) (api.Task, error) {
	g, err := e.usable()
	if err != nil {
		return api.Task{}, err
	}
	return h.tasks.start(kind, e.record().Name, func(ctx context.Context, progress func(api.Progress)) (any, error) {
		release, err := e.hold(ctx)
		if err != nil {
			return nil, err
		}
		defer release()
		progress(api.Progress{Step: kind})
		if err := mayChange(e.record()); err != nil { // since it was asked
			return nil, err
		}
		// What is meant comes first: a hub that is killed here goes on with it.
		if err := h.mean(ctx, e, intent); err != nil {
			return nil, err
		}
		if err := change(ctx, g); err != nil {
			return nil, fmt.Errorf("%s group %s: %w", kind, e.record().Name, err)
		}
		return nil, nil
	})
}

// mean makes durable what a group is meant to do. The caller holds the entry.
func (h *Hub) mean(ctx context.Context, e *entry, intent catalog.Intent) error {
	r := e.record()
	r.Intent = intent
	return h.become(ctx, e, r)
}

// become makes what is known of a group durable. The record beside the journal
// counts; a catalog that is away hears of it at the hub's next start. The caller
// holds the entry.
func (h *Hub) become(ctx context.Context, e *entry, r groupRecord) error {
	if err := writeRecord(e.dir, r); err != nil {
		return err
	}
	e.setRecord(r)
	h.tell(ctx, r)
	return nil
}

// tell lets the catalog know what is known of a group.
func (h *Hub) tell(ctx context.Context, r groupRecord) {
	ctx, cancel := context.WithTimeout(ctx, copyPatience)
	defer cancel()
	if err := h.putGroup(ctx, r); err != nil {
		h.cfg.Logger.Warn("tell the catalog what is known of a group", "group", r.Name, "err", err)
	}
}

func (h *Hub) putGroup(ctx context.Context, r groupRecord) error {
	_, err := h.store.UpdateGroup(ctx, r.ID, func(g *catalog.Group) error { *g = r.Group; return nil })
	return err
}

// Pause implements api.Service.
func (h *Hub) Pause(_ context.Context, group string) (api.Task, error) {
	e, err := h.find(group)
	if err != nil {
		return api.Task{}, err
	}
	if err := mayChange(e.record()); err != nil {
		return api.Task{}, err
	}
	return h.goal("pause", e, catalog.IntentPause, func(ctx context.Context, g Group) error { return g.Pause(ctx) })
}

// Resume implements api.Service.
func (h *Hub) Resume(_ context.Context, group string) (api.Task, error) {
	e, err := h.find(group)
	if err != nil {
		return api.Task{}, err
	}
	if err := mayChange(e.record()); err != nil {
		return api.Task{}, err
	}
	return h.goal("resume", e, catalog.IntentProtect, func(ctx context.Context, g Group) error { return g.Resume(ctx) })
}

// mayChange refuses what is for groups that are protected where their VMs were.
func mayChange(r groupRecord) error {
	switch r.Intent {
	case catalog.IntentStop:
		return stopped(r.Name)
	case catalog.IntentFailover:
		return failedOver(r.Name)
	}
	return nil
}

func stopped(group string) error {
	return api.Errorf(api.CodeConflict, "group %s is not protected any more, only its history is kept", group).
		WithHint("rephub protect VM... --group %s protects it again", group)
}
