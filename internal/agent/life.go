package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/relay"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/journal"
)

const (
	spoolDir = "spool"
	// gather is how long a busy VM's writes are gathered at most before they are journaled and shipped together. Wake-ups cost the
	// VM processor time; it is a part of the RPO.
	gather = 5 * time.Millisecond
)

// live opens the spool and protects until that is of no use any more.
func (g *group) live(ctx context.Context) error {
	s, err := g.openSpool(ctx)
	if err != nil {
		return fmt.Errorf("open the spool: %w", err)
	}
	life, err := g.newLife(s)
	if err != nil {
		return errors.Join(err, s.close())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g.set(life, s, nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := g.ship(ctx, s); err != nil {
			cancel(err)
		}
	})
	err = life.Run(ctx)
	if err == nil && ctx.Err() == nil {
		// It was stopped, and says so, until it is wanted again; what is in the spool goes to the hub.
		g.await(ctx, func(s *host.Group) bool { return s.Goal != protect.GoalStop })
	}
	why := context.Cause(ctx)
	cancel(nil)
	wg.Wait()
	g.set(nil, nil, why)
	err = s.close()
	if errors.Is(why, relay.ErrDiverged) || errors.Is(why, relay.ErrRefused) || errors.Is(why, errUnreadable) {
		return errors.Join(why, err, g.setAside(s))
	}
	return errors.Join(why, err)
}

// errUnreadable: the spool's disk does not give back what was written to it.
var errUnreadable = errors.New("the spool cannot be read")

// readTries is how often a spool that cannot be read is tried before it is given up.
const readTries = 10

// newLife makes the group's protection on a spool.
func (g *group) newLife(s *spool) (*protect.Group, error) {
	spec := g.spec()
	a := g.a
	replica := &remote{id: spec.ID, dir: g.dir, fs: vfs.OS(), up: a.up, spool: s, done: map[journal.VolumeID]int64{}}
	ps := protect.Spec{ID: spec.ID, Name: spec.Name, Goal: spec.Goal, Volumes: spec.Volumes}
	for _, v := range spec.VMs {
		ps.VMs = append(ps.VMs, a.vms.ref(v.Name))
	}
	return protect.New(protect.Deps{
		Replica: replica, FS: vfs.OS(), Keeper: a.keeper.Get, Logger: a.cfg.Logger,
		Changed: a.stateChanged, Freezer: a.freezer,
		OpenVM: func(ctx context.Context, ref protect.VMRef) (vm.VM, error) { return g.openVM(ctx, ref.Name) },
		GrantEpoch: func(ctx context.Context, id journal.GroupID, after journal.Epoch) (journal.Epoch, error) {
			var granted host.Granted
			err := a.up.call(ctx, host.CallGrant, host.Grant{Group: id, After: after}, &granted)
			return granted.Epoch, err
		},
	}, ps, protect.Config{ReaderDir: a.data.join("run"), TapTCP: a.cfg.TapTCP, Gather: gather})
}

// openVM connects to one of the group's VMs.
func (g *group) openVM(ctx context.Context, name string) (vm.VM, error) {
	spec := g.spec()
	i := slices.IndexFunc(spec.VMs, func(v host.VM) bool { return v.Name == name })
	if i < 0 {
		return g.a.vms.open(ctx, host.VM{Name: name})
	}
	return g.a.vms.open(ctx, spec.VMs[i])
}

// openSpool opens the spool that is there, or makes one where the hub's journal
// ends; for that the hub must be there.
func (g *group) openSpool(ctx context.Context) (*spool, error) {
	id, dir := g.spec().ID, filepath.Join(g.dir, spoolDir)
	s, err := openSpool(vfs.OS(), dir, id, g.a.budget, g.logger)
	switch {
	case err == nil:
		return s, nil
	case errors.Is(err, journal.ErrCorrupt):
		g.logger.Error("the spool is damaged, it is given up; what it had is found by comparing", "err", err)
		if err := errors.Join(g.distrust(), os.RemoveAll(dir)); err != nil {
			return nil, err
		}
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	end, err := g.hubEnd(ctx, id)
	if err != nil && g.spec().Goal == protect.GoalStop {
		// The taps go without a hub, too: what is written of that is of no use to it.
		g.logger.Info("the hub does not say where its journal ends, the group is stopped without", "err", err)
		end, err = journal.Start{}, nil
	}
	if err != nil {
		return nil, err
	}
	return createSpool(vfs.OS(), dir, id, end, g.a.budget, g.logger)
}

// hubEnd asks where the hub's journal ends.
func (g *group) hubEnd(ctx context.Context, id journal.GroupID) (end journal.Start, err error) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	conn, err := g.a.up.now()
	if err != nil {
		return end, fmt.Errorf("%w: %w", errAway, err)
	}
	p, err := conn.Pipe(ctx, host.Pipe{Kind: host.PipeEnd, Group: id}.String())
	if err != nil {
		return end, err
	}
	defer p.Close()
	stop := context.AfterFunc(ctx, func() { _ = p.Close() })
	defer stop()
	if err := json.NewDecoder(p).Decode(&end); err != nil {
		return end, fmt.Errorf("ask where the hub's journal ends: %w", err)
	}
	return end, nil
}

// ship sends the spool over one connection after the other, until ctx ends or
// the hub does not take it any more.
func (g *group) ship(ctx context.Context, s *spool) error {
	pause, unread := minPause, 0
	for ctx.Err() == nil {
		conn, err := g.a.up.wait(ctx, nil)
		if err != nil {
			return nil
		}
		began := time.Now()
		err = s.sender.Run(ctx, conn)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, relay.ErrDiverged), errors.Is(err, relay.ErrRefused) && g.isOurs(ctx):
			return err
		case errors.Is(err, journal.ErrCorrupt):
			return fmt.Errorf("%w: %w", errUnreadable, err)
		case conn.Err() == nil && !errors.Is(err, relay.ErrInterrupted):
			if unread++; unread == readTries {
				return fmt.Errorf("%w: %w", errUnreadable, err)
			}
		}
		g.logger.Info("the spool is not shipped now", "err", err)
		if time.Since(began) > maxPause {
			pause, unread = minPause, 0
		}
		sleep(ctx, pause)
		pause = min(2*pause, maxPause)
	}
	return nil
}

// isOurs asks the hub, which has refused a spool, whether it has the group and the
// group is this host's. If not, the spool is kept, and protection goes on until the
// hub says what to do.
func (g *group) isOurs(ctx context.Context) bool {
	_, err := g.hubEnd(ctx, g.spec().ID)
	return err == nil
}

// distrust has all volumes compared. Records of a sync have no seqs, so that nobody
// would miss those that a spool or the hub has lost.
func (g *group) distrust() error {
	return protect.Distrust(vfs.OS(), g.dir, g.spec().Volumes)
}

// aside is where the last spool is that was put aside, if any.
func (g *group) aside() string { return filepath.Join(g.dir, "spool.aside") }

// setAside puts a spool away that is not the hub's past. It is never merged.
func (g *group) setAside(s *spool) error {
	aside := g.aside()
	if err := errors.Join(g.distrust(), os.RemoveAll(aside)); err != nil {
		return err
	}
	g.logger.Warn("the hub does not take the spool, it is put aside and the volumes are compared", "aside", aside,
		"unsent", int64(s.Log.Serial())-int64(s.sender.Durable().Serial))
	if err := os.Rename(s.dir, aside); err != nil {
		return err
	}
	return g.a.budget.keep(aside)
}
