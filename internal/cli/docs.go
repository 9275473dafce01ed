package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// docsCommand prints docs/cli.md, so that the reference cannot differ from the
// program.
func (a *app) docsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "docs", Short: "Print the reference of the command line", Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(a.env.Stdout, reference(cmd.Root()))
			return err
		},
	}
}

// reference is the whole command line as Markdown.
func reference(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString("# The command line\n\nThis page is printed by `rephub docs`; a test compares the two.\n\n" +
		"Results go to standard output, as a table or with `-o json` as JSON; progress and messages go to standard error.\n" +
		"An error is one line that begins with `error:`, often followed by one that begins with `hint:`.\n\n" +
		"## Exit status\n\n| status | meaning |\n| --- | --- |\n")
	for _, c := range exitCodes {
		fmt.Fprintf(&b, "| %d | %s |\n", c.code, c.text)
	}
	b.WriteString("\n## POINT\n\n" + pointHelp + "\n\n## Environment\n\n`REPHUB_HUB` is the default of `--hub`, except for `rephub agent`. `REPHUB_JOIN` is the default of its `--join`.\n\n## Flags of every command\n\n")
	writeFlags(&b, root.PersistentFlags())
	writeCommands(&b, root)
	return b.String()
}

func writeCommands(b *strings.Builder, cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		if sub.Hidden || sub.Name() == "help" || sub.Name() == "completion" {
			continue
		}
		if sub.Runnable() {
			writeCommand(b, sub)
		}
		writeCommands(b, sub)
	}
}

func writeCommand(b *strings.Builder, cmd *cobra.Command) {
	fmt.Fprintf(b, "\n## %s\n\n", cmd.CommandPath())
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	fmt.Fprintf(b, "%s\n\n    %s\n", text, strings.TrimSuffix(cmd.UseLine(), " [flags]"))
	if cmd.Example != "" {
		lines := strings.Split(cmd.Example, "\n")
		fmt.Fprintf(b, "\nFor example:\n\n")
		for _, l := range lines {
			fmt.Fprintf(b, "    %s\n", strings.TrimSpace(l))
		}
	}
	if cmd.LocalNonPersistentFlags().HasAvailableFlags() {
		b.WriteString("\n")
		writeFlags(b, cmd.LocalNonPersistentFlags())
	}
}

func writeFlags(b *strings.Builder, flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" || f.Name == "version" {
			return
		}
		kind, text := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if kind != "" {
			name += " " + kind
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" {
			text += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(b, "- `%s`: %s\n", name, text)
	})
}
