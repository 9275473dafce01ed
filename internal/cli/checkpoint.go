package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/api"
)

func (a *app) checkpointCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "checkpoint", Short: "Named recovery points", RunE: needSubcommand}
	cmd.AddCommand(a.checkpointCreateCommand(), a.checkpointListCommand(), a.checkpointRemoveCommand())
	return cmd
}

func (a *app) checkpointCreateCommand() *cobra.Command {
	var req api.CheckpointRequest
	var patience time.Duration
	cmd := &cobra.Command{
		Use:   "create G",
		Short: "Name the group's newest point; retention keeps it",
		Long: `Name the group's newest point; retention keeps it.

--quiesce freezes the file systems of all guests of the group for a moment, through
qemu-guest-agent, and names the point of that moment: no file system has to replay
its journal, and what the guests' freeze hooks flush is in it. Guests stay frozen
for milliseconds, and never longer than 5 s. If it does not work the checkpoint is
crash-consistent, as without --quiesce; a note and the JSON's reason say why.`,
		Example: `  rephub checkpoint create shop --name before-upgrade
  rephub checkpoint create shop --name nightly --quiesce
  rephub mount shop --at checkpoint:before-upgrade`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				req.QuiesceSeconds = patience.Seconds()
				p, err := c.CreateCheckpoint(cmd.Context(), args[0], req)
				if err != nil {
					return err
				}
				if req.Quiesce && p.Consistency != "application" {
					a.note("checkpoint %s is crash-consistent only: %s", p.Name, dash(p.Reason))
				}
				return a.print(p, func(t *table) { checkpointsTable(t, []api.Checkpoint{p}) })
			})
		},
	}
	cmd.Flags().StringVar(&req.Name, "name", "", "`name` (default: made from the time)")
	cmd.Flags().BoolVar(&req.Quiesce, "quiesce", false, "freeze the guests' file systems at that moment")
	cmd.Flags().DurationVar(&patience, "quiesce-timeout", 10*time.Second, "how long the guests may take to be frozen")
	return cmd
}

func (a *app) checkpointListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list G", Short: "List a group's checkpoints", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				l, err := c.ListCheckpoints(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.print(l, func(t *table) { checkpointsTable(t, l.Checkpoints) })
			})
		},
	}
}

func (a *app) checkpointRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remove G NAME", Short: "Forget a checkpoint; retention may take its point then",
		Example: "  rephub checkpoint remove shop before-upgrade", Args: cobra.ExactArgs(2),
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				if err := c.RemoveCheckpoint(cmd.Context(), args[0], args[1]); err != nil {
					return err
				}
				return a.done(map[string]string{"removed": args[1]}, "removed checkpoint "+args[1])
			})
		},
	}
}

func checkpointsTable(t *table, l []api.Checkpoint) {
	t.row("CHECKPOINT", "SEQ", "TIME", "KIND", "CONSISTENCY")
	for _, p := range l {
		t.row(p.Name, num(p.Seq), timeText(p.Time), p.Kind, p.Consistency)
	}
}
