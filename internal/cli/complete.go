package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/api"
)

// completeTimeout bounds what a shell waits for when Tab is pressed.
const completeTimeout = time.Second

// complete asks the hub for names; without a hub there are none.
func (a *app) complete(cmd *cobra.Command, names func(context.Context, *api.Client) []string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
	defer cancel()
	c, err := a.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer c.Close()
	return names(ctx, c), cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeVMs(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, func(ctx context.Context, c *api.Client) (names []string) {
		l, _ := c.ListVMs(ctx) // an empty list without a hub
		for _, vm := range l.VMs {
			names = append(names, vm.Name)
		}
		return names
	})
}

func (a *app) completeGroups(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd, func(ctx context.Context, c *api.Client) (names []string) {
		st, _ := c.Status(ctx, "")
		for _, g := range st.Groups {
			names = append(names, g.Name)
		}
		return names
	})
}

func (a *app) completeMounts(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd, func(ctx context.Context, c *api.Client) (names []string) {
		l, _ := c.ListMounts(ctx)
		for _, m := range l.Mounts {
			names = append(names, m.ID)
		}
		return names
	})
}
