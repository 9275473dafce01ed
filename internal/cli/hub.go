package cli

import (
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/hub"
)

func (a *app) hubCommand() *cobra.Command {
	cfg := hub.Config{Version: a.env.Version}
	var level string
	cmd := &cobra.Command{
		Use:   "hub",
		Short: "Run a hub",
		Long: `Run a hub in the foreground: it receives the writes of protected VMs, keeps
their history and serves mounts. SIGTERM or Ctrl-C ends it; the VMs do not
notice, and what they write meanwhile is synced when a hub is back.

The API is served on loopback addresses and unix sockets only. Agents are let in
by certificate; see rephub token create.`,
		Example: `  rephub hub --data /srv/rephub
  rephub hub --data /srv/rephub --nbd 0.0.0.0:10809 --api 127.0.0.1:8080
  rephub hub --data /srv/rephub --agents 0.0.0.0:7010`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.Logger, err = a.logger(level); err != nil {
				return err
			}
			if cfg.Data == "" {
				cfg.Data = defaultData(a.env.Getenv)
			}
			cfg.Ready = func(info hub.Ready) {
				text := fmt.Sprintf("hub is ready: API %s, NBD %s", join(info.API), join(info.NBD))
				if len(info.Agents) > 0 {
					text += ", agents " + join(info.Agents)
				}
				fmt.Fprintln(a.env.Stdout, text)
			}
			giveWay(cfg.Logger)
			cfg.BesideVMs = func() { halveProcessors(cfg.Logger) }
			return hub.Run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Data, "data", "", "data `directory` (default /var/lib/rephub, or ~/.local/state/rephub for other users than root)")
	f.StringArrayVar(&cfg.NBD, "nbd", nil, "serve mounts on `HOST:PORT or unix:PATH`; again for more (default unix:DATA/nbd.sock)")
	f.StringArrayVar(&cfg.API, "api", nil, "serve the API on `HOST:PORT or unix:PATH`, loopback only; again for more (default unix:DATA/hub.sock)")
	f.StringVar(&cfg.Agents, "agents", "", "take the agents of other hosts on `HOST:PORT`, for example 0.0.0.0:7010 (default: none)")
	f.StringSliceVar(&cfg.Etcd, "etcd", nil, "keep the catalog in an etcd cluster at these `URLs` instead of one of our own")
	f.StringVar(&level, "log-level", "info", "what to log: debug, info, warn or error")
	must(cmd.MarkFlagDirname("data"))
	return cmd
}

// logger logs to standard error from a level on.
func (a *app) logger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, withHint(usageError{"unknown log level " + quote(level)}, "use debug, info, warn or error")
	}
	return slog.New(slog.NewTextHandler(a.env.Stderr, &slog.HandlerOptions{Level: l})), nil
}
