package cli

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/api"
)

func (a *app) vmCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "vm", Short: "VMs and their volumes", RunE: needSubcommand}
	cmd.AddCommand(a.vmAddCommand(), a.vmListCommand(), a.vmRemoveCommand())
	return cmd
}

func (a *app) vmAddCommand() *cobra.Command {
	var spec api.VMSpec
	cmd := &cobra.Command{
		Use:   "add NAME --qmp PATH",
		Short: "Add a VM by the path of its QMP socket",
		Long: `Add a VM by the path of its QMP socket. QEMU must run on the hub's host, with
for example: -qmp unix:/run/web.qmp,server=on,wait=off

The address may be written as for QEMU: unix:PATH, or tcp:HOST:PORT.`,
		Example: `  rephub vm add web --qmp /run/web.qmp
  rephub vm add db --qmp /run/db.qmp --nbd-server unix:/run/db.nbd`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec.Name = args[0]
			var err error
			if spec.QMP, err = absoluteQMP(spec.QMP); err != nil {
				return err
			}
			return a.ask(func(c *api.Client) error {
				vm, err := c.AddVM(cmd.Context(), spec)
				if err != nil {
					return err
				}
				return a.print(vm, func(t *table) { vmTable(t, []api.VM{vm}) })
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&spec.QMP, "qmp", "", "`path` of the VM's QMP unix socket, or unix:PATH")
	f.StringVar(&spec.NBDServer, "nbd-server", "", "QEMU's NBD server when something else has started it: `unix:PATH`")
	must(cmd.MarkFlagRequired("qmp"))
	return cmd
}

// absoluteQMP takes a path, unix:PATH or tcp:HOST:PORT and makes a path absolute,
// because the hub may work in another directory.
func absoluteQMP(s string) (string, error) {
	if strings.HasPrefix(s, "tcp:") {
		return s, nil
	}
	path := strings.TrimPrefix(s, "unix:")
	if path == "" {
		return "", withHint(usageError{"the QMP address " + quote(s) + " has no path"}, "write PATH, unix:PATH or tcp:HOST:PORT")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", s, err)
	}
	return path, nil
}

func (a *app) vmListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List VMs and their volumes",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *api.Client) error {
				vms, err := c.ListVMs(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(vms, func(t *table) { vmTable(t, vms.VMs) })
			})
		},
	}
}

func (a *app) vmRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Forget a VM that no group protects", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeVMs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				if err := c.RemoveVM(cmd.Context(), args[0]); err != nil {
					return err
				}
				return a.done(map[string]string{"removed": args[0]}, "removed VM "+args[0])
			})
		},
	}
}

// vmTable has a column for the host when there is a VM of another host than the
// hub's.
func vmTable(t *table, vms []api.VM) {
	hosts := slices.ContainsFunc(vms, func(vm api.VM) bool { return vm.Agent != "" })
	t.rowOf(hosts, "VM", "HOST", "STATE", "GROUP", "VOLUME", "SIZE", "FORMAT", "PROTECTED")
	for _, vm := range vms {
		state := vm.RunState
		if !vm.Reachable {
			state = "unreachable"
		}
		if len(vm.Volumes) == 0 {
			t.rowOf(hosts, vm.Name, dash(vm.Agent), state, dash(vm.Group), dash(""), dash(""), dash(""), dash(vm.Reason))
		}
		for _, v := range vm.Volumes {
			t.rowOf(hosts, vm.Name, dash(vm.Agent), state, dash(vm.Group), v.Name, bytesText(v.Size), dash(v.Format), yesNo(v.Protected))
		}
	}
}
