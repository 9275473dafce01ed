package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/api"
)

func (a *app) agentListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the agents of a hub",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *api.Client) error {
				l, err := c.ListAgents(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(l, func(t *table) { agentsTable(t, l) })
			})
		},
	}
}

func (a *app) agentRemoveCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Shut an agent out of a hub, for good",
		Long: `Shut an agent out of a hub, for good: its connection ends at once, and its
certificate is of no use any more. The host can join anew with a new token, as
another agent. Removing an agent that is shut out already takes it from the list.

It is refused while the agent protects groups: rephub unprotect takes the taps
out of the VMs, for which the agent is needed.`,
		Example: "  rephub agent remove kvm7",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.completeAgents,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				if err := c.RemoveAgent(cmd.Context(), args[0], force); err != nil {
					return err
				}
				return a.done(map[string]string{"removed": args[0]}, "removed agent "+args[0])
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "even while it protects groups; its taps stay in the VMs")
	return cmd
}

func agentsTable(t *table, l api.Agents) {
	t.row("AGENT", "STATE", "SINCE", "VERSION", "CERTIFICATE UNTIL", "VMS")
	for _, g := range l.Agents {
		t.row(g.Name, string(g.State), momentText(g.Since), dash(g.Version), momentText(g.CertificateExpires), dash(strings.Join(g.VMs, ", ")))
	}
	if l.Note != "" {
		fmt.Fprintf(t.w, "\n%s\n", oneLine(l.Note))
	}
}

func momentText(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return timeText(*t)
}

func (a *app) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Let hosts join a hub", RunE: needSubcommand}
	cmd.AddCommand(a.tokenCreateCommand())
	return cmd
}

func (a *app) tokenCreateCommand() *cobra.Command {
	var req api.TokenRequest
	var ttl string
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Print a join token, good for one host",
		Long: `Print a join token, alone on standard output. Whoever has it can join the hub
as an agent, once: it is bound to the first host that shows it. That host may
show it again until it expires, if the answer was lost.`,
		Example: `  rephub token create | ssh root@kvm7 'umask 077; cat > /etc/rephub/join'
  rephub token create --ttl 10m
  rephub token create --agent kvm7`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			life, ok := parseSpan(ttl)
			if !ok {
				return withHint(usageError{"bad ttl " + quote(ttl)}, "use a duration like 10m, 1h or 7d")
			}
			req.TTLSeconds = life.Seconds()
			return a.ask(func(c *api.Client) error {
				t, err := c.CreateToken(cmd.Context(), req)
				if err != nil {
					return err
				}
				return a.printToken(t)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&ttl, "ttl", "1h", "how long it can be used, `DURATION`: 10m, 1h, 7d")
	f.StringVar(&req.Agent, "agent", "", "for a host that comes back as the agent of this `NAME`: its certificate has expired, or its disk is gone")
	f.BoolVar(&req.NewAuthority, "new-authority", false, "if the hub's certificate authority is lost, make another: then every agent needs a token with --agent")
	must(cmd.RegisterFlagCompletionFunc("agent", a.completeAgents))
	return cmd
}

// printToken says on standard error what to do with it.
func (a *app) printToken(t api.Token) error {
	if a.output == "json" {
		return a.printJSON(t, "  ")
	}
	if len(t.Agents) == 0 {
		fmt.Fprintln(a.env.Stderr, "this hub does not listen for agents: start it with --agents HOST:PORT")
	}
	fmt.Fprintf(a.env.Stderr, "good for one host until %s\n", timeText(t.Expires))
	_, err := fmt.Fprintln(a.env.Stdout, t.Token)
	return err
}

func (a *app) completeAgents(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd, func(ctx context.Context, c *api.Client) (names []string) {
		l, _ := c.ListAgents(ctx)
		for _, g := range l.Agents {
			names = append(names, g.Name)
		}
		return names
	})
}
