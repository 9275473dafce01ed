package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/host"
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
	watcher, err := newWatcher(&cfg)
	if err != nil {
		return nil, err
	}
	data, err := openData(cfg.Data)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, data.close()) }()
	a := newAgent(cfg, data)
	defer func() { err = errors.Join(err, a.keeper.Close()) }()
	a.up = newUplink("", cfg.Version, nil, relay.Config{}, cfg.Logger) // which nobody runs
	a.groups = newGroups(ctx, a, data.join("groups"))
	defer a.groups.close()
	a.vms.set(watcher.Once())
	look, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() {
		if err := watcher.Run(look, a.vms.set); err != nil && look.Err() == nil {
			cfg.Logger.Warn("look for VMs", "err", err)
		}
	})
	wanted, damaged, err := a.groups.named(names)
	if err != nil {
		return nil, err
	}
	var ids []journal.GroupID
	for _, spec := range wanted {
		spec.Goal = protect.GoalStop
		a.groups.begin(spec)
		ids, released = append(ids, spec.ID), append(released, spec.Name)
	}
	if err := a.groups.forget(ids); err != nil {
		return nil, err
	}
	if err := a.groups.dropped(ctx, tell); err != nil {
		return nil, err
	}
	if len(damaged) > 0 {
		return released, api.Errorf(api.CodeConflict, "what is known of a group cannot be read, its taps may be left: %s", strings.Join(damaged, ", ")).
			WithHint("taps end with their QEMU: shut its VMs down and start them again, then remove the folder")
	}
	return released, nil
}

// named finds the groups that are named, all without a name. damaged are the folders of groups that may be meant, too.
func (gs *groups) named(names []string) (wanted []host.Group, damaged []string, err error) {
	var known []string
	damaged, err = gs.kept(func(r specRecord) {
		known = append(known, r.Name)
		if len(names) == 0 || slices.Contains(names, r.Name) {
			wanted = append(wanted, r.Group)
		}
	})
	if err != nil || len(names) == 0 {
		return wanted, damaged, err
	}
	for _, n := range names {
		if slices.Contains(known, n) {
			continue
		}
		hint := "its groups: " + cmp.Or(strings.Join(known, ", "), "none")
		if len(damaged) > 0 {
			hint += "; and what cannot be read: " + strings.Join(damaged, ", ")
		}
		return nil, nil, api.Errorf(api.CodeNotFound, "this host has no group %s", n).WithHint("%s", hint)
	}
	return wanted, nil, nil
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
		left := gs.all()
		switch {
		case len(left) == 0:
			return nil
		case ctx.Err() != nil:
			return api.Errorf(api.CodeUnavailable, "the taps of group %s were not all taken out: %v", left[0].spec().Name, context.Cause(ctx)).
				WithHint("the agent goes on with it when it is started; or run this again, with the agent's --qmp-glob and --libvirt")
		}
		select {
		case <-done:
			if left = gs.all(); len(left) > 0 && ctx.Err() == nil {
				return fmt.Errorf("group %s is still there", left[0].spec().Name)
			}
		case <-ctx.Done():
		case <-tick.C:
		}
		for _, g := range left {
			if life, _, err := g.now(); tell != nil && life != nil {
				tell(g.spec().Name, life.Status().Reason)
			} else if tell != nil {
				tell(g.spec().Name, fmt.Sprint(err))
			}
		}
	}
}
