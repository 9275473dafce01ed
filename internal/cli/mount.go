package cli

import (
	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/api"
)

func (a *app) mountCommand() *cobra.Command {
	var req api.MountRequest
	cmd := &cobra.Command{
		Use:   "mount G",
		Short: "Serve a group's volumes as they were at a point",
		Long: `Serve a group's volumes as they were at a point, one NBD URI per volume.
A VM can boot from them at once; give it reconnect-delay so that it outlives
a restart of the hub. Protection goes on meanwhile, and the point is kept.

--writable adds a scratch layer that takes the writes and is discarded on
unmount; the point itself never changes.

` + pointHelp,
		Example: `  rephub mount shop
  rephub mount shop --at -30s --writable
  rephub mount list -o json | jq -r '.mounts[].volumes[].uri'`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkPoint(req.At); err != nil {
				return err
			}
			req.Group = args[0]
			return a.ask(func(c *api.Client) error {
				m, err := c.Mount(cmd.Context(), req)
				if err != nil {
					return err
				}
				return a.print(m, func(t *table) { mountsTable(t, []api.Mount{m}) })
			})
		},
	}
	cmd.Flags().StringVar(&req.At, "at", "latest", "the `POINT`")
	cmd.Flags().BoolVar(&req.Writable, "writable", false, "allow writes, into a scratch layer")
	cmd.AddCommand(a.mountListCommand())
	return cmd
}

func (a *app) mountListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List what is mounted",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *api.Client) error {
				l, err := c.ListMounts(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(l, func(t *table) { mountsTable(t, l.Mounts) })
			})
		},
	}
}

func (a *app) unmountCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "unmount ID", Short: "End a mount; its scratch layer is discarded",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeMounts,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				if err := c.Unmount(cmd.Context(), args[0], force); err != nil {
					return err
				}
				return a.done(map[string]string{"unmounted": args[0]}, "unmounted "+args[0])
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "cut off clients that are connected")
	return cmd
}

func mountsTable(t *table, l []api.Mount) {
	t.row("MOUNT", "GROUP", "SEQ", "TIME", "MODE", "VOLUME", "URI")
	for _, m := range l {
		mode := "read-only"
		if m.Writable {
			mode = "writable"
		}
		if m.Error != "" {
			t.row(m.ID, m.Group, num(m.Seq), timeText(m.Time), mode, "-", "not served: "+m.Error)
			continue
		}
		for _, v := range m.Volumes {
			t.row(m.ID, m.Group, num(m.Seq), timeText(m.Time), mode, v.Name, v.URI)
		}
	}
}
