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

The API is served on loopback addresses and unix sockets only.`,
		Example: `  rephub hub --data /srv/rephub
  rephub hub --data /srv/rephub --nbd 0.0.0.0:10809 --api 127.0.0.1:8080`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var l slog.Level
			if err := l.UnmarshalText([]byte(level)); err != nil {
				return withHint(usageError{"unknown log level " + quote(level)}, "use debug, info, warn or error")
			}
			if cfg.Data == "" {
				cfg.Data = defaultData(a.env.Getenv)
			}
			cfg.Logger = slog.New(slog.NewTextHandler(a.env.Stderr, &slog.HandlerOptions{Level: l}))
			cfg.Ready = func(info hub.Ready) {
				fmt.Fprintf(a.env.Stdout, "hub is ready: API %s, NBD %s\n", join(info.API), join(info.NBD))
			}
			return hub.Run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Data, "data", "", "data `directory` (default /var/lib/rephub, or ~/.local/state/rephub for other users than root)")
	f.StringArrayVar(&cfg.NBD, "nbd", nil, "serve mounts on `HOST:PORT or unix:PATH`; again for more (default unix:DATA/nbd.sock)")
	f.StringArrayVar(&cfg.API, "api", nil, "serve the API on `HOST:PORT or unix:PATH`, loopback only; again for more (default unix:DATA/hub.sock)")
	f.StringSliceVar(&cfg.Etcd, "etcd", nil, "keep the catalog in an etcd cluster at these `URLs` instead of one of our own")
	f.StringVar(&level, "log-level", "info", "what to log: debug, info, warn or error")
	must(cmd.MarkFlagDirname("data"))
	return cmd
}
