package cli

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/api"
)

func (a *app) reportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "report", Short: "Reports of failover tests", RunE: needSubcommand,
		Long: `A report is kept of every failover test, also of one that was not passed: the point
and its age, how long it took until the VMs ran, what was checked and seen, pictures
of the screens. The newest 100 of each group are kept, in DATA/reports/groups.`,
	}
	cmd.AddCommand(a.reportListCommand(), a.reportShowCommand())
	return cmd
}

func (a *app) reportListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list [G]", Short: "List the reports, the newest first", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeGroups,
		Example: "  rephub report list shop\n  rephub report list -o json | jq '.reports[] | select(.outcome != \"passed\")'",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				l, err := c.ListReports(cmd.Context(), strings.Join(args, ""))
				if err != nil {
					return err
				}
				return a.print(l, func(t *table) { reportsTable(t, l.Reports) })
			})
		},
	}
}

func reportsTable(t *table, l []api.Report) {
	t.row("REPORT", "GROUP", "KIND", "OUTCOME", "SEQ", "AGE", "RTO", "CHECKS", "REASON")
	for _, r := range l {
		kind := "test"
		if r.Drill {
			kind = "drill"
		}
		t.row(r.ID, r.Group, kind, r.Outcome, num(r.Seq), secondsText(r.AgeSeconds), rtoText(r.RTOSeconds), passedText(r.VMs), dash(r.Reason))
	}
}

func rtoText(s float64) string {
	if s == 0 {
		return "-"
	}
	return secondsText(s)
}

// passedText is how many of the checks were passed, beside that QEMU runs the VMs.
func passedText(vms []api.ReportVM) string {
	passed, all := 0, 0
	for _, v := range vms {
		for _, c := range v.Checks {
			if c.Kind == "running" {
				continue
			}
			all++
			if c.OK {
				passed++
			}
		}
	}
	if all == 0 {
		return "none"
	}
	return fmt.Sprintf("%d of %d", passed, all)
}

func (a *app) reportShowCommand() *cobra.Command {
	var html string
	cmd := &cobra.Command{
		Use: "show G|ID", Short: "Show the newest report of a group, or one by its id or that of its test",
		Long: `Show the newest report of a group, or one by its id or that of its test. With --html
it is written as one page, with pictures of the screens, that needs nothing else: to be
read in a browser, sent to somebody, or kept.`,
		Example: "  rephub report show shop\n  rephub report show shop --html shop.html",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				if html != "" {
					return a.writePage(cmd, c, args[0], html)
				}
				r, err := c.Report(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.print(r, func(t *table) { reportTable(t, &r) })
			})
		},
	}
	cmd.Flags().StringVar(&html, "html", "", "write it as a page to `FILE`; - is standard output")
	return cmd
}

func (a *app) writePage(cmd *cobra.Command, c *api.Client, which, file string) error {
	p, err := c.ReportPage(cmd.Context(), which)
	if err != nil {
		return err
	}
	if file == "-" {
		_, err := a.env.Stdout.Write([]byte(p.HTML))
		return err
	}
	if err := os.WriteFile(file, []byte(p.HTML), 0o600); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return a.done(map[string]string{"report": p.ID, "file": file}, "wrote report "+p.ID+" to "+file)
}

func reportTable(t *table, r *api.Report) {
	reportsTable(t, []api.Report{*r})
	t.row("")
	t.row("VM", "STARTED", "CHECK", "OUTCOME", "TOOK", "SEEN")
	for _, v := range r.VMs {
		if len(v.Checks) == 0 {
			t.row(v.Name, rtoText(v.StartedSeconds), "-", "-", "-", "nothing was checked")
		}
		for _, c := range v.Checks {
			what := c.Kind
			if c.Asked != "" {
				what += " " + c.Asked
			}
			outcome := "failed"
			if c.OK {
				outcome = "passed"
			}
			t.row(v.Name, rtoText(v.StartedSeconds), what, outcome, rtoText(c.TookSeconds), c.Detail)
		}
	}
	if r.Unchecked {
		t.row("")
		t.row("nothing more was checked than that QEMU runs the VMs")
	}
}
