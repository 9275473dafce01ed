package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/api"
)

func (a *app) planCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "plan", Short: "Recovery plans: how VMs are started elsewhere", RunE: needSubcommand,
		Long: `A recovery plan says how a group's VMs are started elsewhere. What they are (CPUs,
memory, machine, disks, network cards) is asked of them while they are protected,
and kept up to date by itself: when their host is lost it is too late to ask.
What people decide is the order, delays, networks, and commands to run.`,
	}
	cmd.AddCommand(a.planShowCommand(), a.planEditCommand())
	return cmd
}

func (a *app) planShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show G", Short: "Show a group's recovery plan",
		Example: "  rephub plan show shop\n  rephub plan show shop -o json | jq '.vms[].memory'",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				p, err := c.Plan(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.printPlan(p)
			})
		},
	}
}

// printPlan prints the text, which tells all, and what is wrong with it.
func (a *app) printPlan(p api.Plan) error {
	if a.output == "json" {
		return a.printJSON(p, "  ")
	}
	for _, v := range p.VMs {
		if v.Reason != "" {
			a.note("VM %s: %s", v.Name, v.Reason)
		}
		for _, d := range v.Disks {
			if !d.Protected {
				a.note("VM %s: disk %s is not in the group, and is not there elsewhere", v.Name, d.Name)
			}
		}
	}
	for _, n := range p.Notes {
		a.note("%s", n)
	}
	_, err := io.WriteString(a.env.Stdout, p.Text)
	return err
}

func (a *app) planEditCommand() *cobra.Command {
	var file string
	var reset bool
	cmd := &cobra.Command{
		Use: "edit G", Short: "Change a group's recovery plan",
		Long: `Change a group's recovery plan in $VISUAL or $EDITOR. Nothing changes when
something in it is wrong: each mistake is told with its line and field, and your
text stays in the file that is named.`,
		Example: `  rephub plan edit shop
  rephub plan show shop > shop.yaml
  rephub plan edit shop --file shop.yaml      # or --file - for standard input
  rephub plan edit shop --reset               # back to what is done without settings`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				switch {
				case reset:
					return a.setPlan(cmd.Context(), c, args[0], "")
				case file != "":
					text, err := a.readPlan(file)
					if err != nil {
						return err
					}
					return a.setPlan(cmd.Context(), c, args[0], text)
				}
				return a.editPlan(cmd.Context(), c, args[0])
			})
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "take the text from a `FILE`, - for standard input")
	cmd.Flags().BoolVar(&reset, "reset", false, "forget all settings")
	cmd.MarkFlagsMutuallyExclusive("file", "reset")
	return cmd
}

// maxPlan is what a hub takes, bytes.
const maxPlan = 64 << 10

func (a *app) readPlan(file string) (string, error) {
	in := a.env.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxPlan+1))
	if err != nil {
		return "", fmt.Errorf("read the plan: %w", err)
	}
	if len(text) > maxPlan {
		return "", usageError{fmt.Sprintf("the plan in %s has more than %d bytes", file, maxPlan)}
	}
	if strings.TrimSpace(string(text)) == "" { // a pipe whose first command failed
		return "", withHint(usageError{"the plan is empty"}, "--reset goes back to the defaults")
	}
	return string(text), nil
}

func (a *app) setPlan(ctx context.Context, c *api.Client, group, text string) error {
	p, err := c.SetPlan(ctx, group, api.PlanText{Text: text})
	if err != nil {
		return err
	}
	return a.done(p, "changed the recovery plan of group "+group)
}

// editPlan has somebody change the text in a file, which stays when it is not taken.
func (a *app) editPlan(ctx context.Context, c *api.Client, group string) error {
	p, err := c.Plan(ctx, group)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "rephub-plan-")
	if err != nil {
		return err
	}
	file := filepath.Join(dir, group+".yaml")
	if err := os.WriteFile(file, []byte(p.Text), 0o600); err != nil {
		return err
	}
	kept := func(err error) error {
		return fmt.Errorf("%w; your text is in %s", err, file)
	}
	if err := a.runEditor(ctx, file); err != nil {
		return kept(err)
	}
	text, err := a.readPlan(file)
	if err != nil {
		return kept(err)
	}
	if text == p.Text {
		return errors.Join(os.RemoveAll(dir), a.done(p, "nothing was changed"))
	}
	if err := a.setPlan(ctx, c, group, text); err != nil {
		fmt.Fprintf(a.env.Stderr, "your text is in %s: correct it, then rephub plan edit %s --file %s\n", file, group, file)
		return err
	}
	return os.RemoveAll(dir)
}

// runEditor runs the user's editor, which may be a command with arguments.
func (a *app) runEditor(ctx context.Context, file string) error {
	editor := a.env.Getenv("VISUAL")
	if editor == "" {
		editor = a.env.Getenv("EDITOR")
	}
	if editor == "" {
		editor = "vi"
	}
	words := strings.Fields(editor)
	cmd := exec.CommandContext(ctx, words[0], append(words[1:], file)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.env.Stdin, a.env.Stderr, a.env.Stderr
	if err := cmd.Run(); err != nil {
		return withHint(fmt.Errorf("run the editor %s: %w", editor, err), "set EDITOR, or use --file")
	}
	return nil
}
