package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/files"
)

// pathHelp explains PATH where it is used.
const pathHelp = `PATH is /PATH, which is looked for in all file systems of the group, or
PLACE:/PATH. PLACE is a VM, a volume VM/NODE, a partition VM/NODE:N or a logical
volume VM:GROUP/NAME; a VM or volume stands for all file systems in it. A path
begins at the root of its file system, wherever the guest mounts that: with a
/home of its own, /home/anna/x is /anna/x there.`

func (a *app) filesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "files",
		Short: "Read single files out of a group's volumes, at any point",
		Long: `Read single files out of a group's volumes as they were at any point. Nothing
is mounted, no VM is started, and nothing is written: journals of the guest's
file systems are replayed in memory, so that what the guest had synced is there.

ext2, ext3, ext4, XFS, FAT and NTFS are read, on whole volumes, in partitions
(MBR, GPT) and on LVM's linear and striped logical volumes. NTFS's own log is not
replayed; a note says when that may matter.`,
		Example: `  rephub files ls shop
  rephub files ls shop --at -1h /etc/nginx
  rephub files get shop --at -1h /etc/nginx/nginx.conf`,
		Args: needSubcommand,
	}
	cmd.AddCommand(a.filesListCommand(), a.filesGetCommand())
	return cmd
}

func (a *app) filesListCommand() *cobra.Command {
	var req api.FilesRequest
	cmd := &cobra.Command{
		Use:   "ls G [--at POINT] [PATH]",
		Short: "List file systems, or the files of a directory",
		Long: `Without PATH, list the volumes of a group, their partitions and logical volumes,
and what is in them. With PATH, list a directory, or one file.

` + pathHelp + "\n\n" + pointHelp,
		Example: `  rephub files ls shop
  rephub files ls shop /var/log
  rephub files ls shop --at checkpoint:before-upgrade web/disk0:1:/etc
  rephub files ls shop web:vg0/home`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkPoint(req.At); err != nil {
				return err
			}
			if len(args) > 1 {
				if err := checkPath(args[1]); err != nil {
					return err
				}
				req.Path = args[1]
			}
			return a.ask(func(c *api.Client) error {
				l, err := c.ListFiles(cmd.Context(), args[0], req)
				if err != nil {
					return err
				}
				return a.printFiles(l, req.Path == "")
			})
		},
	}
	cmd.Flags().StringVar(&req.At, "at", "latest", "the `POINT`")
	return cmd
}

// checkPath refuses a bad PATH before the hub is asked.
func checkPath(s string) error {
	_, _, err := files.SplitPath(s)
	if err != nil {
		return withHint(usageError{err.Error()}, "write /PATH, PLACE:/PATH or PLACE; rephub files ls G shows the places")
	}
	return nil
}

func (a *app) printFiles(l api.FileList, places bool) error {
	if err := a.print(l, func(t *table) {
		if places {
			placeTable(t, l.Places)
			return
		}
		t.row("MODE", "UID", "GID", "SIZE", "MODIFIED", "NAME")
		for _, e := range l.Entries {
			name := e.Name
			switch {
			case e.Problem != "":
				name += "  (" + e.Problem + ")"
			case e.Target != "":
				name += " -> " + e.Target
			}
			t.row(e.Mode, fmt.Sprint(e.UID), fmt.Sprint(e.GID), fmt.Sprint(e.Size), timeText(e.ModTime), name)
		}
	}); err != nil {
		return err
	}
	if a.output != "json" {
		a.notes(l.Notes)
		if l.More {
			a.note("there are more than these %d", len(l.Entries))
		}
	}
	return nil
}

func placeTable(t *table, places []api.FilePlace) {
	t.row("PLACE", "KIND", "SIZE", "TYPE", "LABEL", "FILES", "NOTE")
	for _, p := range places {
		t.row(p.Name, p.Kind, bytesText(p.Size), p.Type, dash(p.Label), yesNo(p.Readable), p.Note)
	}
}

func (a *app) notes(all []string) {
	for _, n := range all {
		a.note("%s", n)
	}
}
