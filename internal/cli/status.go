package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rephub/rephub/internal/api"
)

// behind is the RPO in seconds from which on what a host has not sent yet is worth a word.
const behind = 5

// statusInterval is how often a watched status is asked for.
const statusInterval = time.Second

func (a *app) statusCommand() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use:   "status [G]",
		Short: "Show groups, their recovery points and syncs",
		Long: `Show groups as they are now. With a group, its volumes and ranges too.

RPO is the age of the newest recovery point that is durable at the hub.`,
		Example: `  rephub status
  rephub status shop --watch
  rephub status -o json | jq '.groups[].rpo_seconds'`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			group := ""
			if len(args) > 0 {
				group = args[0]
			}
			return a.ask(func(c *api.Client) error {
				if watch {
					return a.watchStatus(cmd.Context(), c, group)
				}
				return a.printStatus(cmd.Context(), c, group)
			})
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again every second, until interrupted")
	return cmd
}

func (a *app) printStatus(ctx context.Context, c *api.Client, group string) error {
	st, err := c.Status(ctx, group)
	if err != nil {
		return err
	}
	return a.print(st, func(t *table) { statusTable(t, st, group != "") })
}

// printGroup prints one group the short way, after a command that changed it.
func (a *app) printGroup(ctx context.Context, c *api.Client, group string) error {
	st, err := c.Status(ctx, group)
	if err != nil {
		return err
	}
	return a.print(st, func(t *table) { groupsTable(t, st.Groups) })
}

// watchStatus ends without an error when it is interrupted.
func (a *app) watchStatus(ctx context.Context, c *api.Client, group string) error {
	tick := time.NewTicker(statusInterval)
	defer tick.Stop()
	screen := isTerminal(a.env.Stdout) && a.output == "table"
	for {
		st, err := c.Status(ctx, group)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if screen {
			fmt.Fprint(a.env.Stdout, "\x1b[H\x1b[2J")
		}
		if a.output == "json" {
			err = a.printJSON(st, "") // one line each
		} else {
			err = a.print(st, func(t *table) { statusTable(t, st, group != "") })
		}
		if err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func statusTable(t *table, st api.Status, detail bool) {
	groupsTable(t, st.Groups)
	if st.CatalogNote != "" {
		fmt.Fprintf(t.w, "\n%s\n", oneLine(st.CatalogNote))
	}
	if !detail {
		return
	}
	for i := range st.Groups {
		hints(t.w, &st.Groups[i])
		fmt.Fprintln(t.w)
		volumesTable(t, &st.Groups[i])
		fmt.Fprintln(t.w)
		rangesTable(t, &st.Groups[i])
		fmt.Fprintln(t.w)
		historyTable(t, &st.Groups[i])
	}
}

// hints say what to do about what is not right.
func hints(w io.Writer, g *api.GroupStatus) {
	if g.Hint != "" {
		fmt.Fprintf(w, "hint: %s\n", oneLine(g.Hint))
	}
	for _, v := range g.Unprotected {
		vm, disk, _ := strings.Cut(v, "/")
		fmt.Fprintf(w, "hint: rephub protect %s --volume %s --group NAME protects %s in a group of its own\n", oneLine(vm), oneLine(disk), oneLine(v))
	}
}

// groupsTable has a column for the host when there is a group of another host
// than the hub's.
func groupsTable(t *table, groups []api.GroupStatus) {
	hosts := slices.ContainsFunc(groups, func(g api.GroupStatus) bool { return g.Agent != "" })
	t.rowOf(hosts, "GROUP", "HOST", "STATE", "RPO", "FIRST", "DURABLE", "LAST", "JOURNAL", "REASON")
	for i := range groups {
		g := &groups[i]
		rpo := "-"
		if g.RPOSeconds != nil {
			rpo = secondsText(*g.RPOSeconds)
		}
		reason := g.Reason
		if p := syncTotals(g); p.TotalBytes > 0 {
			reason = fmt.Sprintf("%s %s of %s", p.Step, bytesText(p.DoneBytes), bytesText(p.TotalBytes))
		}
		if reason == "" && g.SpoolBytes > 0 && g.RPOSeconds != nil && *g.RPOSeconds > behind {
			reason = fmt.Sprintf("about %s of earlier writes are on their way from the host", bytesText(g.SpoolBytes))
		}
		if n := len(g.Unprotected); reason == "" && n > 0 {
			reason = fmt.Sprintf("%s came later and no group protects it", g.Unprotected[0])
			if n > 1 {
				reason = fmt.Sprintf("%d volumes came later and no group protects them", n)
			}
		}
		if reason == "" {
			reason = g.HistoryNote
		}
		t.rowOf(hosts, g.Name, dash(g.Agent), string(g.State), rpo, num(g.FirstSeq), num(g.DurableSeq), num(g.LastSeq), bytesText(g.JournalBytes), dash(reason))
	}
}

func volumesTable(t *table, g *api.GroupStatus) {
	t.row("VOLUME", "STATE", "SIZE", "SYNC", "UUID")
	for _, v := range g.Volumes {
		sync := "-"
		if v.Sync != nil {
			sync = fmt.Sprintf("%s %s of %s", v.Sync.Kind, bytesText(v.Sync.DoneBytes), bytesText(v.Sync.TotalBytes))
		}
		t.row(v.Name, string(v.State), bytesText(v.Size), sync, v.UUID)
	}
}

func rangesTable(t *table, g *api.GroupStatus) {
	t.row("POINTS FROM", "TO")
	for _, r := range g.Ranges {
		t.row(num(r[0]), num(r[1]))
	}
	if g.OldestTime != nil && g.NewestTime != nil {
		t.row(timeText(*g.OldestTime), timeText(*g.NewestTime))
	}
}

func historyTable(t *table, g *api.GroupStatus) {
	oldest := "-"
	if g.OldestTime != nil {
		oldest = timeText(*g.OldestTime)
	}
	asked := time.Duration(g.HistorySeconds * float64(time.Second)).Round(time.Second)
	t.row("HISTORY", "OLDEST POINT", "NOTE")
	t.row(asked.String(), oldest, dash(g.HistoryNote))
}

func num(n uint64) string { return fmt.Sprint(n) }
