package cli

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/api"
)

func (a *app) protectCommand() *cobra.Command {
	var req api.ProtectRequest
	var history string
	var seeds []string
	var wait bool
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "protect VM...",
		Short: "Protect VMs as one consistency group",
		Long: `Protect VMs as one consistency group: the writes of all their volumes get one
order, and every recovery point holds all of them at one moment.

The command returns when every write is recorded; the first recovery point
is there when the initial sync is done. --wait waits for that. Interrupting
the command ends the waiting only; rephub unprotect ends the protection.

With --seed the volumes are compared with old disks of theirs that are on the hub's
host already, as after a failover when the old site is back: only what differs
crosses the network. What was on the old disks is the group's first point, the
checkpoint "seed", so nothing of it is lost. The disks themselves are copied and
left alone; nothing may have them open.`,
		Example: `  rephub protect web --wait
  rephub protect web db --group shop --history 72h
  rephub protect web --volume disk0 --volume disk1
  rephub protect web --seed web/disk0=/var/lib/images/web.qcow2`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeVMs,
		RunE: func(cmd *cobra.Command, args []string) error {
			keep, err := parseHistory(history)
			if err != nil {
				return err
			}
			req.VMs, req.HistorySeconds = args, keep.Seconds()
			for _, text := range seeds {
				volume, path, ok := strings.Cut(text, "=")
				if !ok || volume == "" || path == "" {
					return withHint(usageError{"bad seed " + quote(text)}, "use VOLUME=PATH, like web/disk0=/var/lib/images/web.qcow2")
				}
				if path, err = filepath.Abs(path); err != nil {
					return err
				}
				req.Seeds = append(req.Seeds, api.Seed{Volume: volume, Path: path})
			}
			if cmd.Flags().Changed("checkpoint-every") {
				seconds := every.Seconds()
				req.CheckpointEverySeconds = &seconds
			}
			return a.ask(func(c *api.Client) error {
				task, err := c.Protect(cmd.Context(), req)
				if err != nil {
					return err
				}
				if task, err = a.follow(cmd.Context(), c, task, goesOn); err != nil {
					return err
				}
				if wait {
					return a.waitProtected(cmd.Context(), c, task.Group)
				}
				return a.printGroup(cmd.Context(), c, task.Group)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&req.Group, "group", "", "`name` of the group (default: that of the first VM)")
	f.StringArrayVar(&req.Volumes, "volume", nil, "only this `NODE or VM/NODE`; again for more (default: all volumes)")
	f.StringArrayVar(&seeds, "seed", nil, "an old disk of a volume, on the hub's host, as `VOLUME=PATH`; one for each volume")
	f.StringVar(&history, "history", "24h", "how much history to keep: 90m, 24h, 7d")
	f.DurationVar(&every, "checkpoint-every", 5*time.Second, "how far automatic checkpoints are apart, in whole seconds; 0 for none")
	f.BoolVar(&wait, "wait", false, "show the sync and return when the group is protected")
	return cmd
}

// parseHistory reads how much history to keep.
func parseHistory(s string) (time.Duration, error) {
	d, ok := parseSpan(s)
	if !ok {
		return 0, withHint(usageError{"bad history " + quote(s)}, "use a duration like 90m, 24h or 7d")
	}
	return d, nil
}

// parseSpan reads a duration that may be in days, and is above zero.
func parseSpan(s string) (time.Duration, bool) {
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n float64
		if n, err = strconv.ParseFloat(days, 64); err == nil && n < 100*365 {
			d = time.Duration(n * float64(24*time.Hour))
		}
	}
	return d, err == nil && d > 0
}

func (a *app) unprotectCommand() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:               "unprotect G",
		Short:             "End a group's protection",
		Long:              "End a group's protection: its taps are taken away in order, the VM does not\nnotice, and the history is removed unless --keep-history is given.",
		Example:           "  rephub unprotect shop --keep-history",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				task, err := c.Unprotect(cmd.Context(), args[0], keep)
				if err != nil {
					return err
				}
				if task, err = a.follow(cmd.Context(), c, task, goesOn); err != nil {
					return err
				}
				text := "group " + args[0] + " is no longer protected"
				if keep {
					text += "; its history is kept"
				}
				return a.done(task, text)
			})
		},
	}
	cmd.Flags().BoolVar(&keep, "keep-history", false, "keep what was recorded, and its recovery points")
	return cmd
}

func (a *app) pauseCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "pause G",
		Short:             "Take a group's taps away for a while",
		Long:              "Take a group's taps away for a while, so that QEMU allows snapshots, backup\nand resize of its volumes. Dirty bitmaps remember what changes.",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				task, err := c.Pause(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if _, err = a.follow(cmd.Context(), c, task, goesOn); err != nil {
					return err
				}
				return a.printGroup(cmd.Context(), c, args[0])
			})
		},
	}
}

func (a *app) resumeCommand() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:               "resume G",
		Short:             "Put a paused group's taps back and sync what changed",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				task, err := c.Resume(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if _, err = a.follow(cmd.Context(), c, task, goesOn); err != nil {
					return err
				}
				if wait {
					return a.waitProtected(cmd.Context(), c, args[0])
				}
				return a.printGroup(cmd.Context(), c, args[0])
			})
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "show the sync and return when the group is protected")
	return cmd
}

// syncTotals adds up the syncs of a group.
func syncTotals(g *api.GroupStatus) (p api.Progress) {
	for _, v := range g.Volumes {
		if v.Sync != nil {
			p.Step = v.Sync.Kind + " sync"
			p.DoneBytes += v.Sync.DoneBytes
			p.TotalBytes += v.Sync.TotalBytes
		}
	}
	if p.Step == "" {
		p.Step = fmt.Sprintf("%s: %s", g.State, dash(g.Reason))
	}
	return p
}
