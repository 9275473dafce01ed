package cli

import (
	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/api"
)

func (a *app) drillCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "drill", Short: "Failover tests that the hub makes every night", RunE: needSubcommand,
		Long: `A drill is a failover test of a group's newest point that the hub makes by itself every
night, with checks, and takes away afterwards. What came of it is in a report, in the
log and in the metrics.

A drill that was due while the hub was down is made when it is back within an hour, and
else waits for the next night. One during which the hub ended is reported as interrupted
and not made again that night.`,
	}
	cmd.AddCommand(a.drillScheduleCommand(), a.drillListCommand(), a.drillRunCommand(), a.drillRemoveCommand())
	return cmd
}

func (a *app) drillScheduleCommand() *cobra.Command {
	var req api.DrillRequest
	var checks checkFlags
	cmd := &cobra.Command{
		Use: "schedule G --at HH:MM", Short: "Test a group's failover every night, or at another time than before",
		Long: `Test a group's failover every day at a time, in the time zone of the hub's host. The
group's schedule is replaced, if it has one.

` + checksHelp,
		Example: `  rephub drill schedule shop --at 02:30 --check-serial login:
  rephub drill schedule shop --at 02:30      # with the checks of the plan only`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if req.Check, err = checks.get(); err != nil {
				return err
			}
			return a.ask(func(c *api.Client) error {
				d, err := c.ScheduleDrill(cmd.Context(), args[0], req)
				if err != nil {
					return err
				}
				return a.print(d, func(t *table) { drillsTable(t, []api.Drill{d}) })
			})
		},
	}
	cmd.Flags().StringVar(&req.At, "at", "", "the time of the day, `HH:MM`")
	must(cmd.MarkFlagRequired("at"))
	checks.add(cmd)
	return cmd
}

func (a *app) drillListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the groups that have drills, and how the last ones ended",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *api.Client) error {
				l, err := c.ListDrills(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(l, func(t *table) { drillsTable(t, l.Drills) })
			})
		},
	}
}

func (a *app) drillRunCommand() *cobra.Command {
	return &cobra.Command{
		Use: "run G", Short: "Make a group's drill now", Example: "  rephub drill run shop",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				task, err := c.RunDrill(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.followFailover(cmd.Context(), c, task)
			})
		},
	}
}

func (a *app) drillRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remove G", Short: "Test a group's failover no more; one that runs goes on to its end",
		Example: "  rephub drill remove shop", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				if err := c.RemoveDrill(cmd.Context(), args[0]); err != nil {
					return err
				}
				return a.done(map[string]string{"removed": args[0]}, "removed the drills of group "+args[0])
			})
		},
	}
}

func drillsTable(t *table, l []api.Drill) {
	t.row("GROUP", "AT", "NEXT", "LAST", "OUTCOME", "RTO", "REPORT")
	for _, d := range l {
		cells := []string{"-", "-", "-", "-"}
		if o := d.Last; o != nil {
			cells = []string{timeText(o.Ended), o.Outcome, rtoText(o.RTOSeconds), dash(o.Report)}
		}
		if d.Running {
			cells[1] = "running"
		}
		t.row(append([]string{d.Group, d.At, timeText(d.Next)}, cells...)...)
	}
}
