package hub

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/nbd"
)

// stopPatience bounds how long requests may take to end when the hub stops.
const stopPatience = 5 * time.Second

// Run is the hub: it serves until ctx ends. Keeper and taps are left alone.
//
// It starts from the bottom up: data directory, listeners, catalog, groups'
// files, mounts, then the groups run and the API answers. It stops in the
// opposite order.
func Run(ctx context.Context, cfg Config) (err error) {
	if err := cfg.EnsureDefaults(); err != nil {
		return err
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	data, err := openData(cfg.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, data.Close()) }()
	if err := os.MkdirAll(data.join("run"), 0o711); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	apis, apiTexts, err := listenAll(ctx, cfg.API, 0o600)
	if err != nil {
		return err
	}
	defer closeAll(apis)
	nbds, nbdTexts, err := listenAll(ctx, cfg.NBD, 0o660)
	if err != nil {
		return err
	}
	defer closeAll(nbds)
	for _, s := range nbdTexts {
		if a, err := api.ParseAddress(s); err == nil && !a.Local() {
			cfg.Logger.Warn("mounts are served to the network without TLS and without a password", "nbd", s)
		}
	}
	var agents []net.Listener
	var agentTexts []string
	if cfg.Agents != "" {
		if agents, agentTexts, err = listenAll(ctx, []string{cfg.Agents}, 0o600); err != nil {
			return err
		}
		defer closeAll(agents)
	}
	h, err := newHub(ctx, cfg, data, Ready{NBD: nbdTexts, API: apiTexts, Agents: agentTexts})
	if err != nil {
		return err
	}
	return h.run(ctx, listeners{apis, nbds, agents})
}

// listeners are where a hub is served.
type listeners struct{ apis, nbds, agents []net.Listener }

// run brings the parts up and, when ctx ends or one of them fails, down again.
func (h *Hub) run(ctx context.Context, ls listeners) error {
	// The catalog outlives the groups, which write to it until they end.
	below, stopBelow := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBelow()
	var floor errgroup.Group
	if h.super != nil {
		floor.Go(func() error { return h.super.Run(below) })
	}
	watching, stopWatching := context.WithCancel(below)
	defer stopWatching()
	floor.Go(func() error { return h.watch.Run(watching) })
	err := h.serve(ctx, ls)
	h.tasks.wait()
	stopWatching() // nothing is asked of what is being closed
	err = errors.Join(err, h.closeAll())
	stopBelow()
	return errors.Join(err, floor.Wait())
}

// serve restores what was and serves until ctx ends; groups have ended after it.
func (h *Hub) serve(ctx context.Context, ls listeners) error {
	if err := h.restore(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // asked to stop while starting
		}
		return err
	}
	server, err := nbd.NewServer(h.mounts.Exports(), nbd.ServerConfig{Logger: h.cfg.Logger})
	if err != nil {
		return fmt.Errorf("make NBD server: %w", err)
	}
	serving, ctx := errgroup.WithContext(ctx)
	for _, l := range ls.nbds {
		serving.Go(func() error { return h.ended(ctx, "NBD", server.Serve(ctx, l)) })
	}
	web := h.webServer()
	for _, l := range ls.apis {
		serving.Go(func() error { return h.ended(ctx, "API", web.Serve(l)) })
	}
	h.startGroups(ctx)
	serving.Go(func() error { h.freezer.Run(ctx); return nil })
	serving.Go(func() error { h.followPlans(ctx); return nil })
	serving.Go(func() error { h.failovers.Run(ctx); return nil })
	serving.Go(func() error { h.drills.run(ctx); return nil })
	if len(ls.agents) > 0 {
		serving.Go(func() error { h.followVMs(ctx); return nil })
	}
	for _, l := range ls.agents {
		serving.Go(func() error { return h.ended(ctx, "agents", h.agents.run(ctx, l)) })
	}
	h.cfg.Logger.Info("hub is ready", "data", h.cfg.Data, "api", h.where.API, "nbd", h.where.NBD, "agents", h.where.Agents, "pid", os.Getpid())
	if h.cfg.Ready != nil {
		h.cfg.Ready(h.where)
	}
	<-ctx.Done()
	h.cfg.Logger.Info("hub is stopping; VMs and their taps are not touched")
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
	defer cancel()
	if err := web.Shutdown(bounded); err != nil {
		_ = web.Close() // what did not end in time is cut off
	}
	if err := server.Close(); err != nil {
		h.cfg.Logger.Warn("stop NBD server", "err", err)
	}
	return serving.Wait()
}

// ended is nil for a server that was asked to stop.
func (h *Hub) ended(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", what, err)
}

func (h *Hub) webServer() *http.Server {
	metrics := prometheus.NewPedanticRegistry()
	metrics.MustRegister(collector{h})
	return &http.Server{
		Handler:           api.NewHandler(h, api.HandlerConfig{Version: h.cfg.Version, Metrics: metrics, Logger: h.cfg.Logger}),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
}
