package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/api"
)

func (a *app) checkpointCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "checkpoint", Short: "Named and automatic recovery points", RunE: needSubcommand}
	cmd.AddCommand(a.checkpointCreateCommand(), a.checkpointListCommand(), a.checkpointAutoCommand(), a.checkpointRemoveCommand())
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
	var q api.CheckpointQuery
	var before string
	cmd := &cobra.Command{
		Use: "list G", Short: "List a group's checkpoints", Args: cobra.ExactArgs(1),
		Long: `List a group's checkpoints, oldest first: all that were named, and the newest of the
automatic ones. An automatic checkpoint is the last state of each 5 s (see rephub
checkpoint auto) in which something was written. It keeps nothing from being dropped
with the history, and every other write of the history can be mounted as well.`,
		Example: `  rephub checkpoint list shop
  rephub checkpoint list shop --auto 100 --before 2026-01-31T10:00:00Z
  rephub mount shop --at checkpoint:auto-20260131T095955Z`,
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			if before != "" {
				var err error
				if q.Before, err = time.Parse(time.RFC3339Nano, before); err != nil {
					return withHint(usageError{"bad time " + quote(before)}, "use a time like 2026-01-31T10:00:00Z")
				}
			}
			return a.ask(func(c *api.Client) error {
				l, err := c.ListCheckpoints(cmd.Context(), args[0], q)
				if err != nil {
					return err
				}
				if err := a.print(l, func(t *table) { checkpointsTable(t, l.Checkpoints) }); err != nil {
					return err
				}
				if l.More && a.output != "json" {
					a.note("there are older automatic checkpoints: --auto shows more, --before older ones")
				}
				return nil
			})
		},
	}
	cmd.Flags().IntVar(&q.Auto, "auto", 20, "at most so many automatic ones, the newest; 0 for none")
	cmd.Flags().StringVar(&before, "before", "", "only those at or before an RFC 3339 `time`")
	return cmd
}

func (a *app) checkpointAutoCommand() *cobra.Command {
	var every time.Duration
	cmd := &cobra.Command{
		Use: "auto G", Short: "Show or set how far automatic checkpoints are apart", Args: cobra.ExactArgs(1),
		Long: `Show or set how far automatic checkpoints are apart. They are read from the history
when they are listed, so that a change holds for all of it at once, and a checkpoint
that was listed before is found by its name for as long as the history has it.`,
		Example:           "  rephub checkpoint auto shop\n  rephub checkpoint auto shop --every 1m\n  rephub checkpoint auto shop --every 0",
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				set := api.AutoCheckpoints{EverySeconds: every.Seconds()}
				if !cmd.Flags().Changed("every") {
					st, err := c.Status(cmd.Context(), args[0])
					if err != nil {
						return err
					}
					set.EverySeconds = st.Groups[0].CheckpointEverySeconds
				} else if _, err := c.SetAutoCheckpoints(cmd.Context(), args[0], set); err != nil {
					return err
				}
				text := "group " + args[0] + " has no automatic checkpoints"
				if set.EverySeconds > 0 {
					text = fmt.Sprintf("group %s has an automatic checkpoint every %gs", args[0], set.EverySeconds)
				}
				return a.done(set, text)
			})
		},
	}
	cmd.Flags().DurationVar(&every, "every", 0, "set it, in whole seconds; 0 for none")
	return cmd
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
