// Package agent is the daemon on a KVM host: it taps the VMs there, spools what
// they write and ships it to a hub, so that no tap ever crosses a network.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/guest"
	"github.com/rephub/rephub/internal/keeper"
	"github.com/rephub/rephub/internal/relay"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vm/discover"
	"github.com/rephub/rephub/internal/vm/libvirt"
)

// Config of an agent. Data is needed, and Hub unless Data has one of an earlier run.
type Config struct {
	// Data is the agent's directory: identity, spools, the keeper's sockets.
	Data string
	// Hub is HOST:PORT of the hub's agents listener.
	Hub string
	// Join is a join token; not needed by an agent that has an identity.
	Join string
	// Name is what the hub calls this host; the host name if empty.
	Name string
	// QMPGlobs find the VMs' QMP sockets.
	QMPGlobs []string
	// NBDServers are addresses of NBD servers that somebody else has started in
	// a VM's QEMU, by VM name.
	NBDServers map[string]string
	// Libvirt is the URI of a libvirt daemon whose domains are VMs, too.
	Libvirt string
	// SpoolSize bounds the spools of all groups together, bytes. 10 GiB.
	SpoolSize int64
	// Limit is a timetable of the bandwidth towards the hub, see
	// relay.ParseTimetable; none if empty.
	Limit string
	// TapTCP lets VMs reach their taps over loopback TCP, where a confinement
	// keeps them from our unix socket.
	TapTCP bool
	// Exe is the program that is the keeper when called so; this one if empty.
	Exe     string
	Version string
	Logger  *slog.Logger
	// Ready is called once when the agent looks after its VMs; it may not have
	// reached the hub by then.
	Ready func()
}

// Agent is a running agent.
type Agent struct {
	cfg    Config
	data   *dataDir
	up     *uplink
	keeper *keeper.Link
	vms    *machines
	groups *groups
	budget *budget
	// freezer is set before groups begin to live.
	freezer *guest.Freezer
	// changed holds one element when a group is in another state.
	changed chan struct{}
}

const defaultSpool = 10 << 30

func (c *Config) ensureDefaults() {
	if c.SpoolSize == 0 {
		c.SpoolSize = defaultSpool
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// minSpool is a few segments.
const minSpool = 32 << 20

func (c *Config) validate() error {
	switch {
	case c.SpoolSize < minSpool:
		return api.Errorf(api.CodeInvalid, "--spool-size: %d bytes are too few", c.SpoolSize).WithHint("it is at least %d MiB", minSpool>>20)
	case c.Hub != "":
		if _, _, err := net.SplitHostPort(c.Hub); err != nil {
			return api.Errorf(api.CodeInvalid, "--hub: %v", err).WithHint("write HOST:PORT")
		}
	}
	return nil
}

// Run is the agent, until ctx ends. Keeper and taps are left alone.
func Run(ctx context.Context, cfg Config) (err error) {
	cfg.ensureDefaults()
	if err := cfg.validate(); err != nil {
		return err
	}
	limit, err := relay.ParseTimetable(cfg.Limit)
	if err != nil {
		return api.Errorf(api.CodeInvalid, "--limit: %v", err).WithHint("write for example: mon-fri 08:00-18:00 20M; unlimited")
	}
	watcher, err := newWatcher(&cfg)
	if err != nil {
		return err
	}
	data, err := openData(cfg.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, data.close()) }()
	hub, err := data.hub(cfg.Hub)
	if err != nil {
		return err
	}
	identity, err := identify(ctx, &cfg, data.join("identity"), hub)
	if err != nil {
		return err
	}
	a := newAgent(cfg, data)
	a.up = newUplink(hub, cfg.Version, identity, relay.Config{Handler: a.obey, Logger: cfg.Logger}, cfg.Logger)
	a.up.limit = limit
	a.groups = newGroups(ctx, a, data.join("groups"))
	return a.run(ctx, watcher)
}

// newAgent is an agent without groups and without a way to a hub.
func newAgent(cfg Config, data *dataDir) *Agent {
	return &Agent{
		cfg: cfg, data: data, vms: newMachines(), budget: &budget{limit: cfg.SpoolSize}, changed: make(chan struct{}, 1),
		keeper: keeper.NewLink(keeper.ClientConfig{Dir: data.join("keeper"), Exe: cfg.Exe, Logger: cfg.Logger}),
	}
}

// newWatcher looks for VMs where the configuration says.
func newWatcher(cfg *Config) (*discover.Watcher, error) {
	d := discover.Config{Globs: cfg.QMPGlobs, NBDServers: cfg.NBDServers}
	if cfg.Libvirt != "" {
		if err := libvirt.ParseURI(cfg.Libvirt); err != nil {
			return nil, api.Errorf(api.CodeInvalid, "--libvirt: %v", err)
		}
		d.Sources = append(d.Sources, libvirt.Source(cfg.Libvirt))
	}
	w, err := discover.New(d)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "%v", err)
	}
	return w, nil
}

// run goes on with the groups there are and obeys the hub until ctx ends.
func (a *Agent) run(ctx context.Context, watcher *discover.Watcher) error {
	a.vms.set(watcher.Once())
	var err error
	a.freezer, err = guest.New(guest.Config{Dir: a.data.join("freezes"), Exe: a.cfg.Exe, FS: vfs.OS(), Logger: a.cfg.Logger})
	if err != nil {
		return err
	}
	if err := a.groups.restore(); err != nil {
		return err
	}
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error {
		if err := watcher.Run(ctx, a.vms.set); err != nil && ctx.Err() == nil {
			return fmt.Errorf("look for VMs: %w", err)
		}
		return nil
	})
	work.Go(func() error { a.up.run(ctx); return nil })
	work.Go(func() error { a.report(ctx); return nil })
	work.Go(func() error { a.freezer.Run(ctx); return nil })
	a.cfg.Logger.Info("agent is ready", "data", a.data.path, "hub", a.up.hub, "agent", a.up.identity.Agent().Name, "pid", os.Getpid())
	if a.cfg.Ready != nil {
		a.cfg.Ready()
	}
	err = work.Wait()
	a.cfg.Logger.Info("agent is stopping; VMs and their taps are not touched")
	a.groups.close()
	return errors.Join(err, a.keeper.Close())
}
