package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/recovery"
)

// catalogPatience is how long a starting hub waits for the catalog before it
// goes on with what is on its own disk.
const catalogPatience = 5 * time.Second

// copyPatience is how long a command waits until the catalog has a copy of
// what is durable already. The copy is made good at the next start.
const copyPatience = 500 * time.Millisecond

func sortedEntries(m map[string]*entry) []*entry {
	return slices.SortedFunc(maps.Values(m), func(a, b *entry) int { return cmp.Compare(a.record().Name, b.record().Name) })
}

// restore opens the groups and mounts of an earlier run. What fails is said
// and listed; it does not keep the rest from running.
func (h *Hub) restore(ctx context.Context) error {
	records, err := h.records(ctx)
	if err != nil {
		return err
	}
	for _, r := range records {
		if _, err := h.find(r.Name); err == nil {
			h.cfg.Logger.Error("two groups have one name and folder, the catalog's is left out", "group", r.Name, "id", r.ID)
			continue // one journal is never opened twice
		}
		if err := h.add(h.open(ctx, r, false)); err != nil {
			h.cfg.Logger.Error("restore group", "group", r.Name, "err", err)
		}
	}
	err = h.mounts.Restore(ctx, func(_ context.Context, r recovery.Record) (recovery.Group, error) {
		e, err := h.findID(r.GroupID)
		if err != nil {
			return nil, err
		}
		return e.usable()
	})
	if errors.Is(err, recovery.ErrNotListed) {
		return err // retention would take the points from under the mounts
	}
	if err != nil {
		h.cfg.Logger.Warn("some mounts are not served", "err", err)
	}
	if err := h.failovers.Restore(ctx); err != nil {
		h.cfg.Logger.Error("find the failovers of an earlier run", "err", err)
	}
	h.restoreTrials()
	h.drills.restore()
	if len(h.failovers.List()) > 0 {
		h.beside()
	}
	return ctx.Err()
}

// records are the groups on disk, and those that only the catalog knows.
func (h *Hub) records(ctx context.Context) ([]groupRecord, error) {
	local, err := scanRecords(h.data.join("groups"))
	if err != nil {
		h.cfg.Logger.Error("some groups' records cannot be read", "err", err)
	}
	if local == nil && errors.Is(err, os.ErrPermission) {
		return nil, err
	}
	waiting, cancel := context.WithTimeout(ctx, catalogPatience)
	defer cancel()
	known, err := h.store.Groups(waiting)
	if err != nil {
		h.cfg.Logger.Warn("the catalog does not answer, going on with the records on disk", "err", err)
		return local, ctx.Err()
	}
	return h.reconcile(ctx, local, known), nil
}

// reconcile makes the two agree. What is beside a group's journal counts; a
// folder that the catalog does not know is history, and put into it again.
func (h *Hub) reconcile(ctx context.Context, local []groupRecord, known []catalog.Group) []groupRecord {
	byID := map[string]catalog.Group{}
	for _, g := range known {
		byID[g.ID.String()] = g
	}
	for _, r := range local {
		g, ok := byID[r.ID.String()]
		if ok {
			if g.Intent != r.Intent {
				h.tell(ctx, r)
			}
			delete(byID, r.ID.String())
			continue
		}
		h.cfg.Logger.Warn("group is not in the catalog, adding it", "group", r.Name)
		if err := h.store.AddGroup(ctx, r.Group); err != nil {
			h.cfg.Logger.Error("add group to the catalog", "group", r.Name, "err", err)
		}
	}
	for _, g := range byID {
		// It was being made or removed when the hub was killed, its record is
		// damaged, or its disk is gone.
		h.cfg.Logger.Warn("group's folder has no record that can be read, using the catalog's", "group", g.Name, "folder", h.data.join("groups", g.Name))
		local = append(local, groupRecord{Group: g, VMs: h.vmsOf(ctx, g)})
	}
	return local
}

// vmsOf are the VMs of a group as the catalog knows them.
func (h *Hub) vmsOf(ctx context.Context, g catalog.Group) (vms []catalog.VM) {
	for _, v := range g.Volumes {
		if slices.ContainsFunc(vms, func(m catalog.VM) bool { return m.Name == v.VM }) {
			continue
		}
		if g.Agent != "" { // it finds its VMs by their names
			vms = append(vms, catalog.VM{Name: v.VM, Agent: g.Agent})
			continue
		}
		m, err := h.store.VM(ctx, v.VM)
		if err != nil {
			h.cfg.Logger.Error("find a group's VM in the catalog", "group", g.Name, "vm", v.VM, "err", err)
			continue
		}
		vms = append(vms, m)
	}
	return vms
}

// removeFolder removes a group's folder such that a kill in between is made up
// for by the next start.
func (h *Hub) removeFolder(e *entry) error {
	gone := h.data.join("groups", removedPrefix+e.record().ID.String())
	if err := os.Rename(e.dir, gone); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove group's folder: %w", err)
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("remove group's folder: %w", err)
	}
	return nil
}
