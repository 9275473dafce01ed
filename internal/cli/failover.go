package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/api"
)

func (a *app) failoverCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "failover", Short: "Start VMs from a point", RunE: needSubcommand}
	cmd.AddCommand(a.failoverTestCommand(), a.failoverStartCommand(), a.failoverCommitCommand(), a.failoverRollbackCommand(), a.failoverListCommand(), a.failoverStopCommand())
	return cmd
}

// followFailover follows a task whose result is a failover, and shows it.
func (a *app) followFailover(ctx context.Context, c *api.Client, task api.Task) error {
	task, err := a.follow(ctx, c, task, cancelled)
	if err != nil {
		return err
	}
	var f api.Failover
	if err := json.Unmarshal(task.Result, &f); err != nil {
		return fmt.Errorf("read the result: %w", err)
	}
	for _, n := range f.Notes {
		a.note("%s", n)
	}
	for _, v := range f.VMs {
		for _, n := range v.Notes {
			a.note("VM %s: %s", v.Name, n)
		}
	}
	a.noteReport(f)
	return a.print(f, func(t *table) { failoversTable(t, []api.Failover{f}) })
}

func (a *app) failoverStartCommand() *cobra.Command {
	req := api.FailoverStart{At: "latest"}
	var patience, commitAfter time.Duration
	cmd := &cobra.Command{
		Use: "start G", Short: "Start a group's VMs from a point, in place of those that it protects",
		Long: `Start a group's VMs from a point on the hub's host, in place of those that it
protects: after a disaster, to move them on purpose (--planned), or to go back to a
time before a mistake (--at).

First the old site is kept out: nothing is taken from there any more. VMs that can be
reached there are held (or with --planned shut down), so that none runs twice; those
that cannot be reached and run nevertheless go on writing to their own disks, and
lose nothing.

Then the VMs start at once, from the history, as the recovery plan says: its failover
networks, its order, its commands. Until it is committed, all of it can be taken back:
rephub failover rollback discards what they have written and goes on as before. With
rephub failover commit they stay.

With --planned not one write is lost: the guests are shut down (those that do not
within --shutdown-timeout are stopped), and the VMs start here when the last write
is here. If that cannot be, all is as it was.

` + pointHelp,
		Example: `  rephub failover start shop
  rephub failover start shop --planned
  rephub failover start shop --at 2026-05-04T10:15:00Z
  rephub failover start shop --commit-after 4h`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkPoint(req.At); err != nil {
				return err
			}
			if patience <= 0 || commitAfter < 0 {
				return withHint(usageError{"--shutdown-timeout and --commit-after are lengths of time, not below 0"}, "for example 90s, 5m, 4h")
			}
			req.ShutdownTimeoutSeconds, req.CommitAfterSeconds = patience.Seconds(), commitAfter.Seconds()
			return a.ask(func(c *api.Client) error {
				task, err := c.StartFailover(cmd.Context(), args[0], req)
				if err != nil {
					return err
				}
				return a.followFailover(cmd.Context(), c, task)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&req.At, "at", "latest", "the `POINT`")
	f.BoolVar(&req.Planned, "planned", false, "shut the VMs down where they run first, and lose not one write")
	f.DurationVar(&patience, "shutdown-timeout", 2*time.Minute, "how long guests have to shut down with --planned")
	f.DurationVar(&commitAfter, "commit-after", 0, "commit by itself after this `TIME` (default: never)")
	f.StringVar(&req.Storage, "storage", "", "`DIR` on the hub's host to which the volumes move with the commit (default recovered, in the hub's data)")
	return cmd
}

func (a *app) failoverCommitCommand() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use: "commit G", Short: "Keep the VMs of a failover",
		Long: `Keep the VMs of a failover: it cannot be taken back any more. Their volumes move
out of the history into files of their own, under the running VMs and without a stop.
Then the group goes on with them: its history stays, and grows with what they write.

VMs that were held where they were are ended there. Their disks are left as they are.

The command returns when that is decided, the rest goes on in the background;
rephub failover list tells how far it is, and --wait waits for it.`,
		Example: "  rephub failover commit shop --wait",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				task, err := c.CommitFailover(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if wait {
					return a.followFailover(cmd.Context(), c, task)
				}
				return a.done(map[string]string{"committed": args[0], "task": task.ID}, "committed "+args[0]+"; its volumes move in the background, rephub failover list tells how far")
			})
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the volumes have moved and the group is followed again")
	return cmd
}

func (a *app) failoverRollbackCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rollback G", Short: "Take a failover back, and discard what its VMs have written",
		Long: `Take a failover back that is not committed: its VMs are ended, as by pulling the
plug, and what they have written is discarded. The VMs that were held where they were
go on, those that were shut down boot, and the group goes on as if nothing had been.`,
		Example: "  rephub failover rollback shop",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				task, err := c.RollbackFailover(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if _, err = a.follow(cmd.Context(), c, task, cancelled); err != nil {
					return err
				}
				return a.done(map[string]string{"rolled_back": args[0]}, "rolled back "+args[0])
			})
		},
	}
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
					if f.ID != args[0] && (f.Group != args[0] || f.Kind != "test") {
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
		state := f.State
		if state == "committing" && f.TotalBytes > 0 {
			state = fmt.Sprintf("committing %d %%", 100*f.MovedBytes/f.TotalBytes)
		}
		for _, v := range f.VMs {
			t.row(f.ID, f.Group, f.Kind, state, num(f.Seq), timeText(f.Time), rto, v.Name, yesNo(v.Running), cmp.Or(v.NamedQMP, v.QMP))
		}
	}
}
