package cli

import (
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/files"
	"github.com/rephub/rephub/internal/giveway"
	"github.com/rephub/rephub/internal/guest"
	"github.com/rephub/rephub/internal/keeper"
)

// keeperCommand is how hub and agent start a keeper. It has flags and an exit
// status of its own.
func (a *app) keeperCommand() *cobra.Command {
	return &cobra.Command{
		Use: "keeper", Short: "Run a tap keeper; the hub starts it", Hidden: true,
		DisableFlagParsing: true, Args: cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			if code := keeper.Main(args); code != exitOK {
				return statusError(code)
			}
			return nil
		},
	}
}

// freezeHolderCommand is how hub and agent have a process that keeps guests frozen
// no longer than it may.
func (a *app) freezeHolderCommand() *cobra.Command {
	return &cobra.Command{
		Use: "freeze-holder NOTE", Short: "Freeze guests for a moment; hub and agent start it", Hidden: true,
		Args: cobra.ExactArgs(1), // only to be seen by people
		RunE: func(cmd *cobra.Command, _ []string) error {
			return guest.Hold(cmd.Context(), a.env.Stdin, a.env.Stdout)
		},
	}
}

// catalogServerCommand is how the hub starts its catalog's server.
func (a *app) catalogServerCommand() *cobra.Command {
	var cfg catalog.ServerConfig
	cmd := &cobra.Command{
		Use: "catalog-server", Short: "Run the catalog's server; the hub starts it", Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Parent = a.env.Stdin
			return catalog.Serve(cmd.Context(), cfg)
		},
	}
	cmd.Flags().StringVar(&cfg.Dir, "dir", "", "its `directory`")
	must(cmd.MarkFlagRequired("dir"))
	return cmd
}

// fileReaderCommand is how the hub starts a reader of guests' file systems.
func (a *app) fileReaderCommand() *cobra.Command {
	return &cobra.Command{
		Use: "file-reader", Short: "Read a file system for the hub; the hub starts it", Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return files.Main(cmd.Context(), a.env.Stdin, a.env.Stdout)
		},
	}
}

// giveWay has a daemon work behind the VMs of its host.
func giveWay(log *slog.Logger) {
	if err := giveway.Begin(); err != nil {
		log.Warn("the VMs of this host do not go before this process", "err", err)
	}
}

// halveProcessors leaves the VMs of this host processors on which the daemon never runs.
func halveProcessors(log *slog.Logger) {
	n, err := giveway.HalveProcessors()
	switch {
	case err != nil:
		log.Warn("the VMs of this host share all of their processors with this process", "err", err)
	case n > 0:
		log.Info("VMs run on this machine, so this process keeps to a half of the processors", "processors", n)
	}
}
