package cli

import (
	"cmp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/agent"
	"github.com/rephub/rephub/internal/api"
)

func (a *app) agentReleaseCommand() *cobra.Command {
	cfg := agent.Config{Version: a.env.Version}
	var all bool
	cmd := &cobra.Command{
		Use:   "release GROUP...",
		Short: "Take taps out of this host's VMs, without a hub",
		Long: `Take the taps of groups out of the VMs of this host, and forget the groups, when
their hub is gone for good. Run it on the host, while its agent is stopped. It
needs no hub. The VMs do not notice.

What the host has not sent yet is removed, too. While the hub is there, use
rephub unprotect: a hub that still has a group gives it to the agent again.`,
		Example: `  systemctl stop rephub-agent
  rephub agent release shop
  rephub agent release --all`,
		Args: cobra.ArbitraryArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if all == (len(args) > 0) {
				return withHint(usageError{"agent release wants names of groups, or --all"}, "a name that this host does not have lists those that it has")
			}
			if cfg.Logger, err = a.logger("error"); err != nil {
				return err
			}
			cfg.Data = a.agentData(cfg.Data)
			bar := a.newBar()
			released, err := agent.Release(cmd.Context(), cfg, args, func(group, reason string) {
				bar.show("releasing "+group, api.Progress{Step: reason})
			})
			bar.end()
			if err != nil {
				return err
			}
			return a.done(map[string][]string{"released": append([]string{}, released...)}, "released "+cmp.Or(strings.Join(released, ", "), "nothing: this host has no groups"))
		},
	}
	cmd.Flags().StringVar(&cfg.Data, "data", "", "the agent's data `directory` (default /var/lib/rephub-agent, or ~/.local/state/rephub-agent for other users than root)")
	cmd.Flags().StringArrayVar(&cfg.QMPGlobs, "qmp-glob", nil, "VMs are behind the QMP sockets that match this `GLOB`; again for more (default: where they were when they were protected)")
	cmd.Flags().StringVar(&cfg.Libvirt, "libvirt", "", "the domains of libvirt at this `URI` are VMs, too")
	cmd.Flags().BoolVar(&all, "all", false, "all groups of this host")
	must(cmd.MarkFlagDirname("data"))
	return cmd
}
