package cli

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/agent"
	"github.com/rephub/rephub/internal/api"
)

// agentFlags are the flags of the agent that need a closer look.
type agentFlags struct {
	join, spool, level string
	nbdServers         []string
}

func (a *app) agentCommand() *cobra.Command {
	cfg := agent.Config{Version: a.env.Version}
	var flags agentFlags
	cmd := &cobra.Command{
		Use:   "agent --hub HOST:PORT",
		Short: "Run an agent on a KVM host, or look after agents",
		Long: `Run an agent in the foreground: it finds the VMs of this host, and ships what
those write that are protected to a hub elsewhere. SIGTERM or Ctrl-C ends it;
the VMs do not notice, and what they write meanwhile is synced afterwards.

It keeps to half of the host's processors, so that it never runs on the others.
taskset, or CPUAffinity= in its unit, gives it other ones.

The first time it needs a join token, which rephub token create prints on the
hub. Later --data is enough: identity and hub are kept there. A new token has
the host join anew. A command line can be seen by every user of the host, so
--join also takes @FILE, and - for standard input; without it, REPHUB_JOIN
counts. The file may be gone once the host has joined.`,
		Example: `  rephub agent --hub backup.example:7010 --join @/etc/rephub/join --qmp-glob '/run/vms/*.qmp'
  rephub agent --data /var/lib/rephub-agent --libvirt qemu:///system`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.agentConfig(&cfg, &flags); err != nil {
				return err
			}
			giveWay(cfg.Logger)
			halveProcessors(cfg.Logger)
			return agent.Run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Data, "data", "", "data `directory` (default /var/lib/rephub-agent, or ~/.local/state/rephub-agent for other users than root)")
	f.StringVar(&cfg.Hub, "hub", "", "where the hub listens for agents, the `HOST:PORT` of its --agents (default: the one that was named last)")
	f.StringVar(&flags.join, "join", "", "a join `TOKEN`, or @FILE or - that has one (default $REPHUB_JOIN)")
	f.StringVar(&cfg.Name, "name", "", "the `NAME` by which the hub calls this host (default: the host name)")
	f.StringArrayVar(&cfg.QMPGlobs, "qmp-glob", nil, "VMs are behind the QMP sockets that match this `GLOB`; again for more")
	f.StringArrayVar(&flags.nbdServers, "nbd-server", nil, "a VM's NBD server when something else has started it: `VM=unix:PATH`; again for more")
	f.StringVar(&cfg.Libvirt, "libvirt", "", "the domains of libvirt at this `URI` are VMs, too")
	f.BoolVar(&cfg.TapTCP, "tap-tcp", false, "VMs reach their taps over loopback TCP: where AppArmor or SELinux keeps them from the agent's unix socket")
	f.StringVar(&flags.spool, "spool-size", "10GiB", "the `SIZE` of what is kept while the hub is away; what is written beyond it is found by dirty bitmaps later")
	f.StringVar(&cfg.Limit, "limit", "", "limit the bytes per second to the hub by a `TIMETABLE`: 20M, or 'mon-fri 08:00-18:00 20M; unlimited'; the first that fits counts")
	f.StringVar(&flags.level, "log-level", "info", "what to log: debug, info, warn or error")
	must(cmd.MarkFlagDirname("data"))
	cmd.AddCommand(a.agentListCommand(), a.agentRemoveCommand(), a.agentReleaseCommand())
	return cmd
}

// agentData is the agent's data directory, for what --data says.
func (a *app) agentData(named string) string {
	return cmp.Or(named, defaultData(a.env.Getenv)+"-agent")
}

// agentConfig completes a configuration from flags and environment.
func (a *app) agentConfig(cfg *agent.Config, f *agentFlags) (err error) {
	if cfg.Logger, err = a.logger(f.level); err != nil {
		return err
	}
	cfg.Data = a.agentData(cfg.Data)
	if cfg.Hub != "" {
		if at, err := api.ParseAddress(cfg.Hub); err != nil || at.Network != "tcp" {
			return withHint(usageError{"bad address of a hub " + quote(cfg.Hub)}, "write HOST:PORT, as in the hub's --agents")
		}
	}
	for _, g := range cfg.QMPGlobs {
		if _, err := filepath.Match(g, ""); err != nil {
			return withHint(usageError{"bad --qmp-glob " + quote(g)}, "write a path with *, ? and [a-z], in quotes")
		}
	}
	if cfg.NBDServers, err = parseServers(f.nbdServers); err != nil {
		return err
	}
	if cfg.SpoolSize, err = parseSize(f.spool); err != nil {
		return err
	}
	if cfg.Join, err = a.joinToken(f.join, cfg.Logger); err != nil {
		return err
	}
	cfg.Ready = func() { fmt.Fprintln(a.env.Stdout, "agent is ready") }
	return nil
}

// maxToken bounds what is read for a token, in bytes.
const maxToken = 4096

// joinToken finds the token that --join means. A file that is not there is not
// needed any more, or the agent says that it needs a token.
func (a *app) joinToken(s string, log *slog.Logger) (string, error) {
	if s == "" {
		s = a.env.Getenv("REPHUB_JOIN")
	}
	from := a.env.Stdin
	switch name, isFile := strings.CutPrefix(s, "@"); {
	case isFile:
		f, err := os.Open(name)
		if errors.Is(err, os.ErrNotExist) {
			log.Info("there is no join token any more", "file", name)
			return "", nil
		}
		if err != nil {
			return "", withHint(err, "--join @FILE reads the token from a file")
		}
		defer f.Close()
		from = f
	case s != "-":
		return s, nil
	}
	line, err := bufio.NewReader(io.LimitReader(from, maxToken)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the join token: %w", err)
	}
	return strings.TrimSpace(line), nil
}

// parseServers reads VM=unix:PATH and VM=HOST:PORT.
func parseServers(all []string) (map[string]string, error) {
	servers := map[string]string{}
	for _, s := range all {
		vm, at, ok := strings.Cut(s, "=")
		_, err := api.ParseAddress(at)
		if !ok || vm == "" || err != nil {
			return nil, withHint(usageError{"bad --nbd-server " + quote(s)}, "write VM=unix:PATH")
		}
		if servers[vm] != "" {
			return nil, withHint(usageError{"VM " + vm + " has two NBD servers"}, "name one --nbd-server for each VM")
		}
		servers[vm] = at
	}
	return servers, nil
}

// parseSize reads bytes, or a number with a binary unit: 512MiB, 10G.
func parseSize(s string) (int64, error) {
	text := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(strings.TrimSpace(s)), "B"), "I")
	shift := 0
	if n := len(text); n > 0 {
		if i := strings.IndexByte("KMGT", text[n-1]); i >= 0 {
			text, shift = text[:n-1], 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil || n <= 0 || n > 1<<62>>shift {
		return 0, withHint(usageError{"bad size " + quote(s)}, "write a size like 512MiB or 10GiB")
	}
	return n << shift, nil
}
