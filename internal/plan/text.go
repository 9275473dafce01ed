package plan

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// factMark begins the lines of a text that tell what the VMs are. They are written anew whenever the text is shown, and not kept.
const factMark = "#| "

// Show is the plan for people, to read and to edit: what the VMs are, then the text. Where nobody has written one, it is the one that says what is done without.
func (p *Plan) Show() string {
	text := p.Text
	if text == "" {
		text = p.defaultText()
	}
	return p.facts() + text
}

// Strip is a text without what Show has put above it.
func Strip(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, strings.TrimSpace(factMark)) {
			out.WriteString(line)
		}
	}
	return out.String()
}

func (p *Plan) facts() string {
	var b strings.Builder
	line := func(format string, args ...any) {
		b.WriteString(strings.TrimRight(factMark+fmt.Sprintf(format, args...), " ") + "\n")
	}
	line("What the VMs are now; these lines are written anew each time.")
	for _, name := range p.names() {
		c := p.VMs[name]
		line("%s: %s, %d CPUs, %s of memory, since %s", name, c.Machine, c.CPUs, sizeOf(c.Memory), c.Since.UTC().Format(time.RFC3339))
		for _, d := range c.Disks {
			line("  disk %s, %s, %s", d.Name, sizeOf(d.Size), d.File)
		}
		for _, n := range c.NICs {
			line("  network card %s on %s", n.MAC, NetworkOf(n))
		}
	}
	return b.String()
}

// defaultText spells the defaults out.
func (p *Plan) defaultText() string {
	var b strings.Builder
	b.WriteString(`# How this group's VMs are started elsewhere. What is left out is as it was.
vms:
`)
	if len(p.VMs) == 0 {
		b.WriteString("  # none could be asked yet\n")
	}
	for _, name := range p.names() {
		fmt.Fprintf(&b, "  %s:\n    order: 1      # lower ones start first, equal ones at once\n    delay: 0s     # after it has started, before the next order\n", key(name))
		fmt.Fprintf(&b, "    # cpus: %d\n    # memory: %s\n", max(1, p.VMs[name].CPUs), sizeOf(p.VMs[name].Memory))
		b.WriteString("    # check: {agent: true, screen: true, serial: \"login:\", command: /usr/local/bin/answers, timeout: 3m}   # in a test\n")
	}
	b.WriteString(`# What takes the place of a network: isolated, same, bridge NAME, tap NAME, or network NAME of libvirt.
networks:
`)
	s := p.defaults()
	for _, name := range slices.Sorted(maps.Keys(s.Networks)) {
		n := s.Networks[name]
		fmt.Fprintf(&b, "  %s: {failover: %s, test: %s}\n", key(name), n.Failover, n.Test)
	}
	b.WriteString(`# Commands on the recovery host, before the first VM starts and after the last one has; not in a test. A VM may have its own.
# before: /usr/local/bin/open-firewall
# after:
#   - /usr/local/bin/switch-dns shop
`)
	return b.String()
}

// key is a name as a key of YAML.
func key(name string) string {
	if plainKey.MatchString(name) {
		return name
	}
	return strconv.Quote(name)
}

// plainKey is what needs no quotes for sure; neither a number nor a word that YAML knows.
var plainKey = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]{3,}( [A-Za-z0-9._-]+)?$`)

// sizeOf is a size as Parse reads it, if it is whole MiB.
func sizeOf(n int64) string {
	switch {
	case n >= 1<<30 && n%(1<<30) == 0:
		return fmt.Sprintf("%dGiB", n>>30)
	case n%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", n>>20)
	}
	return fmt.Sprintf("%d bytes", n)
}
