package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/api"
)

func (a *app) failoverCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "failover", Short: "Start VMs from a point", RunE: needSubcommand}
	cmd.AddCommand(a.failoverTestCommand(), a.failoverListCommand(), a.failoverStopCommand())
	return cmd
}

func (a *app) failoverTestCommand() *cobra.Command {
	req := api.FailoverRequest{At: "latest"}
	cmd := &cobra.Command{
		Use: "test G", Short: "Start a group's VMs from a point, apart from everything",
		Long: `Start a group's VMs from a point on the hub's host, to see that they come up. They
have the hardware that the recovery plan knows of, disks whose writes are discarded
afterwards, and networks out of which nothing gets unless the plan says otherwise.
Protection goes on. The command returns when all VMs run; if one does not start,
nothing is left of the test. A group may have several tests at once.

The VMs run until rephub failover stop, also while the hub is restarted. Commands of
the plan are not run in a test.

` + pointHelp,
		Example: `  rephub failover test shop
  rephub failover test shop --at -1h
  rephub failover stop shop`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkPoint(req.At); err != nil {
				return err
			}
			return a.ask(func(c *api.Client) error {
				task, err := c.TestFailover(cmd.Context(), args[0], req)
				if err != nil {
					return err
				}
				if task, err = a.follow(cmd.Context(), c, task, cancelled); err != nil {
					return err
				}
				var f api.Failover
				if err := json.Unmarshal(task.Result, &f); err != nil {
					return fmt.Errorf("read the result: %w", err)
				}
				for _, v := range f.VMs {
					for _, n := range v.Notes {
						a.note("VM %s: %s", v.Name, n)
					}
				}
				return a.print(f, func(t *table) { failoversTable(t, []api.Failover{f}) })
			})
		},
	}
	cmd.Flags().StringVar(&req.At, "at", "latest", "the `POINT`")
	return cmd
}

func (a *app) failoverListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the VMs that run from points",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *api.Client) error {
				l, err := c.ListFailovers(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(l, func(t *table) { failoversTable(t, l.Failovers) })
			})
		},
	}
}

func (a *app) failoverStopCommand() *cobra.Command {
	return &cobra.Command{
		Use: "stop G|ID", Short: "End a group's failover tests, or one of them",
		Long: `End the VMs of a group's failover tests, or of one test, and discard what they
have written. They are not shut down but ended, as by pulling the plug.`,
		Example: "  rephub failover stop shop",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				l, err := c.ListFailovers(cmd.Context())
				if err != nil {
					return err
				}
				stopped := []string{}
				for _, f := range l.Failovers {
					if f.ID != args[0] && f.Group != args[0] {
						continue
					}
					if err := c.StopFailover(cmd.Context(), f.ID); err != nil {
						return err
					}
					stopped = append(stopped, f.ID)
				}
				if len(stopped) == 0 {
					return withHint(notFoundError{fmt.Errorf("no failover test of a group %s, and none with this id", args[0])}, "rephub failover list shows them")
				}
				return a.done(map[string][]string{"stopped": stopped}, "stopped "+strings.Join(stopped, ", "))
			})
		},
	}
}

func failoversTable(t *table, l []api.Failover) {
	t.row("FAILOVER", "GROUP", "KIND", "STATE", "SEQ", "TIME", "RTO", "VM", "RUNNING", "QMP")
	for _, f := range l {
		rto := "-"
		if f.RTOSeconds > 0 {
			rto = fmt.Sprintf("%.1f s", f.RTOSeconds)
		}
		for _, v := range f.VMs {
			t.row(f.ID, f.Group, f.Kind, f.State, num(f.Seq), timeText(f.Time), rto, v.Name, yesNo(v.Running), v.QMP)
		}
	}
}
