// Package cli is the command line, a contract that people script against: one
// file per command, everything it needs comes in through Env.
package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/api"
)

// Env is what a command gets from the process.
type Env struct {
	Args           []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Version        string
}

// Main runs one command and returns its exit status. When ctx ends, commands
// end in an orderly way.
func Main(ctx context.Context, env Env) int {
	a := &app{env: env}
	root := a.root()
	root.SetArgs(env.Args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	err := root.ExecuteContext(ctx)
	return report(env.Stderr, ctx, err)
}

// app is what the commands of one run share.
type app struct {
	env    Env
	hub    string
	output string
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "rephub",
		Short: "Continuous protection of KVM virtual machines",
		Long: `rephub follows every write of a running KVM virtual machine and opens its
disks as they were after any of them. Nothing is installed in the guest.

A hub (rephub hub) keeps the history; the other commands ask it.`,
		Example: `  rephub hub &
  rephub vm add web --qmp /run/web.qmp
  rephub protect web --wait
  rephub mount web --at -30s`,
		Version:           a.env.Version,
		SilenceErrors:     true,
		SilenceUsage:      true,
		Args:              cobra.NoArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.checkFlags() },
	}
	root.SetVersionTemplate("rephub {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, err) })
	f := root.PersistentFlags()
	f.StringVar(&a.hub, "hub", "", "where the hub listens, as `unix:PATH or URL` (default $REPHUB_HUB, else unix:DATA/hub.sock)")
	f.StringVarP(&a.output, "output", "o", "table", "what to print, `table|json`")
	must(root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp)))

	root.AddGroup(&cobra.Group{ID: "run", Title: "Run:"}, &cobra.Group{ID: "protect", Title: "Protect:"},
		&cobra.Group{ID: "recover", Title: "Recover:"}, &cobra.Group{ID: "look", Title: "Look and check:"})
	root.AddCommand(
		in("run", a.hubCommand()), in("run", a.agentCommand()), in("run", a.tokenCommand()), a.keeperCommand(), a.catalogServerCommand(), a.freezeHolderCommand(), a.fileReaderCommand(), a.docsCommand(),
		in("protect", a.vmCommand()), in("protect", a.protectCommand()), in("protect", a.unprotectCommand()),
		in("protect", a.pauseCommand()), in("protect", a.resumeCommand()),
		in("look", a.statusCommand()), in("look", a.taskCommand()), in("look", a.reportCommand()), in("look", a.journalCommand()),
		in("recover", a.checkpointCommand()), in("recover", a.mountCommand()), in("recover", a.unmountCommand()),
		in("recover", a.exportCommand()), in("recover", a.filesCommand()), in("recover", a.planCommand()), in("recover", a.failoverCommand()), in("recover", a.drillCommand()),
		exitCodesTopic(),
	)
	wrapArgs(root)
	return root
}

func in(group string, cmd *cobra.Command) *cobra.Command {
	cmd.GroupID = group
	return cmd
}

// needSubcommand is a command that only holds others.
func needSubcommand(cmd *cobra.Command, _ []string) error {
	return usage(cmd, errNoSubcommand)
}

// wrapArgs makes wrong arguments a usage error everywhere.
func wrapArgs(cmd *cobra.Command) {
	check := cmd.Args
	if check == nil {
		check = cobra.NoArgs
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usage(cmd, err)
		}
		return nil
	}
	for _, sub := range cmd.Commands() {
		wrapArgs(sub)
	}
}

func (a *app) checkFlags() error {
	if a.output != "table" && a.output != "json" {
		return withHint(usageError{"unknown output format " + quote(a.output)}, "use -o table or -o json")
	}
	return nil
}

// hubAddr is where the hub listens.
func (a *app) hubAddr() string {
	if a.hub != "" {
		return a.hub
	}
	if s := a.env.Getenv("REPHUB_HUB"); s != "" {
		return s
	}
	return "unix:" + defaultData(a.env.Getenv) + "/hub.sock"
}

// client is a client of the hub. Close it.
func (a *app) client() (*api.Client, error) { return api.NewClient(a.hubAddr()) }

// ask runs f with a client.
func (a *app) ask(f func(c *api.Client) error) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

func must(err error) {
	if err != nil {
		panic(err) // a flag that we have just defined is not there
	}
}
