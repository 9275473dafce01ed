package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/keeper"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/relay"
	"github.com/rephub/rephub/journal"
)

// tellEvery is how often a Release says what it waits for.
const tellEvery = time.Second

// Release takes the taps of groups out of the VMs of this host and forgets the groups, with what their spools hold: for a host whose hub is gone for
// good. It needs no hub, and an agent that does not run. names are groups; without any it is all. tell (may be nil) hears now and then
// what is waited for. It returns the names of the groups released. When ctx ends before, the agent goes on with it at its next start.
func Release(ctx context.Context, cfg Config, names []string, tell func(group, reason string)) (released []string, err error) {
	cfg.ensureDefaults()
	if _, err := os.Stat(cfg.Data); err != nil {
		return nil, api.Errorf(api.CodeNotFound, "there is no agent's data: %v", err).WithHint("name its directory with --data")
	}
	data, err := openData(cfg.Data)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, data.close()) }()
	a := &Agent{cfg: cfg, data: data, vms: newMachines(), budget: &budget{limit: cfg.SpoolSize}}
	a.keeper = keeper.NewLink(keeper.ClientConfig{Dir: data.join("keeper"), Exe: cfg.Exe, Logger: cfg.Logger})
	defer func() { err = errors.Join(err, a.keeper.Close()) }()
	a.up = newUplink("", cfg.Version, nil, relay.Config{}, cfg.Logger) // which nobody runs
	a.groups = newGroups(ctx, a, data.join("groups"))
	defer a.groups.close()
	ids, released, err := a.groups.named(names)
	if err != nil {
		return nil, err
	}
	if err := a.groups.forget(ids); err != nil {
		return nil, err
	}
	return released, a.groups.dropped(ctx, tell)
}

// named begins the groups that are named, all without a name, to end them.
func (gs *groups) named(names []string) (ids []journal.GroupID, found []string, err error) {
	var known []string
	var wanted []specRecord
	err = gs.kept(func(r specRecord) {
		known = append(known, r.Name)
		if len(names) == 0 || slices.Contains(names, r.Name) {
			wanted = append(wanted, r)
		}
	})
	if err != nil {
		return nil, nil, err
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			return nil, nil, api.Errorf(api.CodeNotFound, "this host has no group %s", n).WithHint("its groups: %s", cmp.Or(strings.Join(known, ", "), "none"))
		}
	}
	for _, r := range wanted {
		r.Goal = protect.GoalStop
		gs.begin(r.Group)
		ids, found = append(ids, r.ID), append(found, r.Name)
	}
	return ids, found, nil
}

// dropped returns when all groups that are being dropped are gone.
func (gs *groups) dropped(ctx context.Context, tell func(group, reason string)) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		gs.wg.Wait()
	}()
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case <-done:
			if left := gs.all(); len(left) > 0 {
				return fmt.Errorf("group %s is still there", left[0].spec().Name)
			}
			return nil
		case <-ctx.Done():
			return api.Errorf(api.CodeUnavailable, "not all taps were taken out: %v", context.Cause(ctx)).
				WithHint("the agent goes on with it when it is started; or run this again")
		case <-tick.C:
		}
		for _, g := range gs.all() {
			if life, _, err := g.now(); tell != nil && life != nil {
				tell(g.spec().Name, life.Status().Reason)
			} else if tell != nil {
				tell(g.spec().Name, fmt.Sprint(err))
			}
		}
	}
}
