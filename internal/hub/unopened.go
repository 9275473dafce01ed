package hub

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/keeper"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/journal"
)

// What becomes of a group that could not be opened: it may hold a history that
// somebody can mend, so nothing here removes a file of it.

// detachPatience bounds how long a VM may take to let go of its taps.
const detachPatience = 30 * time.Second

// checkNothingLost refuses to remove a folder that could not be read, unless
// nothing but a group's record was ever in it.
func checkNothingLost(e *entry) error {
	err := onlyRecord(e.dir)
	if err == nil {
		return nil
	}
	name := e.record().Name
	return api.Errorf(api.CodeRefused, "group %s could not be opened, so its history is not removed: %v", name, e.openErr).
		WithHint("rephub unprotect %s --keep-history ends the protection; rephub journal check %s says what can be read; "+
			"if you do not need it, move %s away and unprotect again", name, e.dir, e.dir)
}

// onlyRecord is nil for a folder that is not there, or that was never made to
// its end: it has a record at most, and empty folders.
func onlyRecord(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, f := range entries {
		name := filepath.Join(dir, f.Name())
		if f.IsDir() {
			in, rerr := os.ReadDir(name)
			if rerr == nil && len(in) == 0 {
				continue
			}
			return errors.Join(fmt.Errorf("%s is in use", name), rerr)
		}
		if !strings.HasPrefix(f.Name(), recordFile) {
			return fmt.Errorf("there is %s", name)
		}
	}
	return err
}

// abandon ends the protection of a group that could not be opened: what is meant
// is noted, and the taps that a hub before this one left are taken away.
func (h *Hub) abandon(ctx context.Context, e *entry) error {
	r := e.record()
	r.Intent = catalog.IntentStop
	// Only over the record of this very group: what cannot be read may be
	// another's, and the catalog's word counts then.
	if old, err := readRecord(e.dir); err == nil && old.ID == r.ID {
		if err := h.become(ctx, e, r); err != nil {
			return err
		}
	} else if err := h.putGroup(ctx, r); err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return catalogError(err)
	}
	e.setRecord(r)
	if err := h.takeTaps(ctx, r); err != nil {
		tag := protect.Tag(r.ID)
		return api.Errorf(api.CodeUnavailable, "group %s is not protected any more, but taps are left: %v", r.Name, err).
			WithHint("run this again when the VM answers, or restart the VM; by hand: over QMP block-job-cancel every %s, then blockdev-del every %s",
				vm.Name(vm.KindJob, tag, "*"), vm.Name(vm.KindTap, tag, "*"))
	}
	return nil
}

// takeTaps takes a group's taps out of its VMs in the order that is safe: the
// keeper goes on answering, and records no more.
func (h *Hub) takeTaps(ctx context.Context, r groupRecord) error {
	ctx, cancel := context.WithTimeout(ctx, detachPatience)
	defer cancel()
	k, err := h.ownKeeper(ctx)
	if err != nil {
		return fmt.Errorf("reach the tap keeper: %w", err)
	}
	id := r.ID.String()
	_, err = k.Detach(ctx, id)
	known := !errors.Is(err, keeper.ErrNoGroup)
	if known && err != nil {
		return fmt.Errorf("stop recording: %w", err)
	}
	if slices.ContainsFunc(r.Volumes, func(v catalog.Volume) bool { return !r.knows(v.VM) }) {
		r.VMs = h.vmsOf(ctx, r.Group) // it may have been added again
	}
	var errs []error
	for _, m := range r.VMs {
		if err := h.takeTapsOf(ctx, m, r.ID); err != nil {
			errs = append(errs, fmt.Errorf("VM %s: %w", m.Name, err))
		}
	}
	for _, v := range r.Volumes {
		if !r.knows(v.VM) {
			errs = append(errs, fmt.Errorf("volume %s: VM %s is not known, see rephub vm add", v.Name, v.VM))
		}
	}
	if len(errs) > 0 || !known {
		return errors.Join(errs...)
	}
	if err := k.CloseFreedRing(ctx, id); err != nil {
		return fmt.Errorf("give the ring back: %w", err)
	}
	return nil
}

// takeTapsOf takes the taps and bitmaps of a group out of one VM. One that does
// not run has none.
func (h *Hub) takeTapsOf(ctx context.Context, r catalog.VM, id journal.GroupID) error {
	m, err := h.vms.Get(ctx, r.QMP)
	// Only what surely does not run: a VM that hangs has its taps still.
	if errors.Is(err, vm.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer m.Close()
	tag := protect.Tag(id)
	taps, err := m.ListTaps(ctx, tag)
	if err == nil {
		err = m.Detach(ctx, taps)
	}
	if err != nil {
		return err
	}
	bitmaps, err := m.ListBitmaps(ctx, tag)
	if err != nil {
		return err
	}
	var refs []vm.BitmapRef
	for _, b := range bitmaps {
		refs = append(refs, b.BitmapRef)
	}
	return m.RemoveBitmaps(ctx, refs)
}

// unopened is the status of a group that could not be opened.
func unopened(r groupRecord, why error, dir string) api.GroupStatus {
	st := api.GroupStatus{State: api.StateDegraded, Reason: "it could not be opened: " + why.Error()}
	st.Hint = "see rephub journal check " + dir + "; once it is mended, restart the hub"
	if r.Intent == catalog.IntentStop {
		st.State, st.Reason = api.StateStopped, "protection was ended, and its history could not be opened: "+why.Error()
	}
	for _, v := range r.Volumes {
		st.Volumes = append(st.Volumes, api.VolumeStatus{
			Name: v.Name, UUID: v.UUID, VM: v.VM, Node: v.Node, Size: v.Size, State: st.State,
		})
	}
	return st
}
