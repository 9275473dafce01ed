package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/api"
)

func (a *app) failoverTestCommand() *cobra.Command {
	req := api.FailoverRequest{At: "latest"}
	var checks checkFlags
	cmd := &cobra.Command{
		Use: "test G", Short: "Start a group's VMs from a point, apart from everything",
		Long: `Start a group's VMs from a point on the hub's host, to see that they come up. They
have the hardware that the recovery plan knows of, disks whose writes are discarded
afterwards, and networks out of which nothing gets unless the plan says otherwise.
Protection goes on. A group may have several tests at once. If a VM does not start,
nothing is left of the test.

` + checksHelp + `
Without checks the command returns when QEMU runs all VMs, and nothing more is known.
When a check is not passed, the exit status is 9 and the VMs run on, so that you can
look; with --stop the test is taken away after the checks, however they end.

The VMs run until rephub failover stop, also while the hub is restarted. Commands of
the plan are not run in a test. A report of every test is kept: rephub report list.

` + pointHelp,
		Example: `  rephub failover test shop
  rephub failover test shop --at -1h
  rephub failover test shop --check-serial login: --check-agent
  rephub failover test shop --check 'grep -q "database ready" $REPHUB_SERIAL' --stop
  rephub failover stop shop`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkPoint(req.At); err != nil {
				return err
			}
			var err error
			if req.Check, err = checks.get(); err != nil {
				return err
			}
			return a.ask(func(c *api.Client) error {
				task, err := c.TestFailover(cmd.Context(), args[0], req)
				if err != nil {
					return err
				}
				return a.followFailover(cmd.Context(), c, task)
			})
		},
	}
	cmd.Flags().StringVar(&req.At, "at", "latest", "the `POINT`")
	cmd.Flags().BoolVar(&req.Stop, "stop", false, "take the test away after the checks, however they end")
	checks.add(cmd)
	return cmd
}

// checksHelp says what can be checked.
const checksHelp = `What counts as up is said by checks, here for all VMs or in the plan for one of them:
a text on a serial line, the QEMU guest agent, a screen that shows something and
stands still, a command on the hub's host. The command runs for each VM, again and
again until it exits 0, with REPHUB_GROUP, REPHUB_FAILOVER, REPHUB_VM, REPHUB_DIR
(the VM's folder), REPHUB_QMP (its monitor) and REPHUB_SERIAL (a file with what came on
its first serial line) in its environment, as the user whom the hub runs as.
`

// checkFlags are those of commands that check VMs.
type checkFlags struct {
	checks  api.Checks
	timeout time.Duration
}

func (f *checkFlags) add(cmd *cobra.Command) {
	l := cmd.Flags()
	l.StringVar(&f.checks.Command, "check", "", "`COMMAND` on the hub's host that exits 0 when the VM is up")
	l.BoolVar(&f.checks.Agent, "check-agent", false, "the QEMU guest agent has to answer")
	l.BoolVar(&f.checks.Screen, "check-screen", false, "the screen has to show something, and to stand still")
	l.StringVar(&f.checks.Serial, "check-serial", "", "`TEXT` that has to come on a serial line")
	l.DurationVar(&f.timeout, "check-timeout", 0, "how long a VM has for all of its checks (default 3m, or what the plan says)")
}

// get is what was asked for, nil if nothing was.
func (f *checkFlags) get() (*api.Checks, error) {
	if f.timeout < 0 || f.timeout > 24*time.Hour {
		return nil, withHint(usageError{"--check-timeout is a length of time, not below 0 and 24h at most"}, "for example 90s or 5m")
	}
	f.checks.TimeoutSeconds = f.timeout.Seconds()
	if f.checks == (api.Checks{}) {
		return nil, nil
	}
	return &f.checks, nil
}

// noteReport says what is known of a test that was passed.
func (a *app) noteReport(f api.Failover) {
	switch {
	case f.Report == "":
	case f.Checks == 0:
		a.note("nothing more was checked than that QEMU runs the VMs; rephub failover test --help tells how; report %s", f.Report)
	default:
		a.note("%s; report %s", checksText(f.Checks), f.Report)
	}
}

func checksText(n int) string {
	if n == 1 {
		return "1 check was passed"
	}
	return fmt.Sprintf("%d checks were passed", n)
}
