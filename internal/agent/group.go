package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/vfs/sealed"
)

const (
	specFile  = "group.json"
	retryLife = time.Second // after a life of a group that could not begin
)

var specKind = sealed.Kind{Magic: "rephub-agent-group", Version: 1}

// group is a consistency group on this host: what the hub wants of it, and its
// life, which begins anew whenever its spool has to.
type group struct {
	a      *Agent
	dir    string
	logger *slog.Logger
	stop   context.CancelFunc
	ended  chan struct{} // closed when nothing of it runs any more

	mu struct {
		sync.Mutex
		spec    host.Group
		life    *protect.Group // nil while there is none
		spool   *spool         // the life's
		err     error          // why there is no life
		changed chan struct{}  // closed and replaced whenever one of them changes
	}
}

// newGroup begins to live as the spec says.
func newGroup(ctx context.Context, a *Agent, dir string, spec host.Group) *group {
	ctx, stop := context.WithCancel(ctx)
	g := &group{a: a, dir: dir, logger: a.cfg.Logger.With("group", spec.Name), stop: stop, ended: make(chan struct{})}
	g.mu.spec = spec
	g.mu.changed = make(chan struct{})
	g.mu.err = errors.New("the agent has just started")
	go func() {
		defer close(g.ended)
		g.run(ctx)
	}()
	return g
}

// run lives one life after the other until ctx ends or the group is stopped.
func (g *group) run(ctx context.Context) {
	if err := g.a.budget.keep(g.aside()); err != nil {
		g.logger.Warn("a spool that was put aside is not counted", "err", err)
	}
	for ctx.Err() == nil {
		err := g.live(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil { // it was stopped in order
			g.await(ctx, func(s *host.Group) bool { return s.Goal != protect.GoalStop })
			continue
		}
		g.logger.Warn("the group's life ended", "err", err)
		g.set(nil, nil, err)
		sleep(ctx, retryLife)
	}
}

func (g *group) spec() host.Group {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.spec
}

// errBetween: one life is over and the next one is about to begin.
var errBetween = errors.New("protection begins anew")

func (g *group) set(life *protect.Group, s *spool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if life == nil && err == nil {
		err = errBetween
	}
	g.mu.life, g.mu.spool, g.mu.err = life, s, err
	if life != nil {
		life.SetGoal(g.mu.spec.Goal) // it may have changed while the life was made
	}
	g.changedLocked()
}

func (g *group) changedLocked() {
	close(g.mu.changed)
	g.mu.changed = make(chan struct{})
}

// now is the present life, or why there is none.
func (g *group) now() (*protect.Group, *spool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.life, g.mu.spool, g.mu.err
}

// await returns when the spec is as asked, or ctx ends.
func (g *group) await(ctx context.Context, ok func(*host.Group) bool) {
	for {
		g.mu.Lock()
		good, changed := ok(&g.mu.spec), g.mu.changed
		g.mu.Unlock()
		if good {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
