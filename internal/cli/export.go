package cli

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/api"
)

func (a *app) exportCommand() *cobra.Command {
	var req api.ExportRequest
	cmd := &cobra.Command{
		Use:   "export G --at POINT --to DIR",
		Short: "Write a group's volumes at a point to image files",
		Long: `Write a group's volumes at a point to image files in a directory on the hub's
host, one per volume. Interrupting the command cancels the export.

` + pointHelp,
		Example:           "  rephub export shop --at latest --to /backup/shop --format qcow2",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkPoint(req.At); err != nil {
				return err
			}
			if req.Format != "raw" && req.Format != "qcow2" {
				return withHint(usageError{"unknown format " + quote(req.Format)}, "use raw or qcow2")
			}
			dir, err := filepath.Abs(req.To)
			if err != nil {
				return fmt.Errorf("find %s: %w", req.To, err)
			}
			req.To = dir
			return a.ask(func(c *api.Client) error {
				task, err := c.Export(cmd.Context(), args[0], req)
				if err != nil {
					return err
				}
				if task, err = a.follow(cmd.Context(), c, task, cancelled); err != nil {
					return err
				}
				return a.printExport(task)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&req.At, "at", "", "the `POINT`")
	f.StringVar(&req.To, "to", "", "`directory` for the files")
	f.StringVar(&req.Format, "format", "raw", "raw or qcow2")
	must(cmd.MarkFlagRequired("at"))
	must(cmd.MarkFlagRequired("to"))
	must(cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"raw", "qcow2"}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

func (a *app) printExport(task api.Task) error {
	var r api.ExportResult
	if err := json.Unmarshal(task.Result, &r); err != nil {
		return fmt.Errorf("decode the export's result: %w", err)
	}
	return a.print(r, func(t *table) {
		t.row("VOLUME", "SEQ", "TIME", "SIZE", "FILE")
		for _, f := range r.Files {
			t.row(f.Name, num(r.Seq), timeText(r.Time), bytesText(f.Size), f.Path)
		}
	})
}
