package hub

import (
	"context"
	"errors"
	"fmt"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
)

// Unprotect implements api.Service.
func (h *Hub) Unprotect(_ context.Context, group string, keepHistory bool) (api.Task, error) {
	e, err := h.find(group)
	if err != nil {
		return api.Task{}, err
	}
	if e.record().Intent == catalog.IntentFailover {
		return api.Task{}, failedOver(group)
	}
	if !keepHistory {
		if err := h.checkUnmounted(e); err != nil {
			return api.Task{}, err
		}
		if e.current() == nil {
			if err := checkNothingLost(e); err != nil {
				return api.Task{}, err
			}
		}
	}
	return h.tasks.start("unprotect", group, func(ctx context.Context, progress func(api.Progress)) (any, error) {
		progress(api.Progress{Step: "taking the taps away"})
		if agent := e.record().Agent; agent != "" {
			if _, ok := h.agents.get(agent); !ok {
				progress(api.Progress{Step: "agent " + h.agents.name(ctx, agent) + " is away: it takes the taps away when it is back"})
			}
		}
		return nil, h.remove(ctx, e, keepHistory)
	})
}

// checkUnmounted refuses to remove a history that somebody uses.
func (h *Hub) checkUnmounted(e *entry) error {
	id := e.record().ID
	for _, m := range h.mounts.List() {
		if _, err := h.failovers.Get(m.ID); err == nil && m.GroupID == id {
			return api.Errorf(api.CodeConflict, "VMs of group %s run from one of its points, in failover test %s", e.record().Name, m.ID).
				WithHint("rephub failover stop %s first, or use --keep-history", m.ID)
		}
		if m.GroupID == id {
			return api.Errorf(api.CodeConflict, "group %s is mounted as %s", e.record().Name, m.ID).
				WithHint("rephub unmount %s first, or use --keep-history", m.ID)
		}
	}
	return nil
}

// remove takes a group's taps away, and everything else unless keepHistory.
func (h *Hub) remove(ctx context.Context, e *entry, keepHistory bool) error {
	release, err := e.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	if e.record().Intent == catalog.IntentFailover {
		return failedOver(e.record().Name)
	}
	if e.current() != nil {
		err = h.end(ctx, e)
	} else {
		err = h.abandon(ctx, e)
	}
	if err != nil || keepHistory {
		return err
	}
	if e.current() == nil { // there may be more in the folder than when it was asked
		if err := checkNothingLost(e); err != nil {
			return err
		}
	}
	if err := e.seal(); err != nil {
		return err
	}
	if err := h.checkUnmounted(e); err != nil {
		e.unseal()
		return err
	}
	h.drop(e)
	if r := e.record(); r.Agent != "" {
		h.left(ctx, r.Agent, r)
	}
	if err := e.close(); err != nil {
		e.logger.Warn("close group", "err", err)
	}
	if err := h.removeFolder(e); err != nil {
		return err
	}
	if err := h.store.RemoveGroup(ctx, e.record().ID); err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return catalogError(err)
	}
	return nil
}

// end ends the protection of an open group.
func (h *Hub) end(ctx context.Context, e *entry) error {
	if err := h.mean(ctx, e, catalog.IntentStop); err != nil {
		return err
	}
	if e.ended == nil {
		e.live() // stopped before the hub started; a kill may have left taps
	}
	if err := e.current().Stop(ctx); err != nil {
		return fmt.Errorf("stop group %s: %w", e.record().Name, err)
	}
	return nil
}
