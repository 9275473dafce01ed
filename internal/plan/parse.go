package plan

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Error is what is wrong in one place of a plan's text.
type Error struct {
	Line   int    // from 1
	Field  string // vms.web.memory; "" for the whole
	Detail string
	// Gone: what it is about was there once, so that the rest can be used.
	Gone bool
}

func (e *Error) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("line %d: %s", e.Line, e.Detail)
	}
	return fmt.Sprintf("line %d: %s: %s", e.Line, e.Field, e.Detail)
}

// Parse reads a plan's text, which is YAML, for the VMs that the group has. The error joins one *Error for everything that is wrong. Where all of them are
// Gone, the settings can be used.
func Parse(text string, vms map[string]Captured) (Settings, error) {
	r := reader{s: Settings{VMs: map[string]VM{}, Networks: map[string]Network{}}, vms: vms}
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		return r.s, syntaxError(err)
	}
	if len(doc.Content) > 0 {
		r.top(doc.Content[0])
	}
	r.s.complete(vms)
	return r.s, errors.Join(r.errs...)
}

// yamlLine is how the library says where it is.
var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

func syntaxError(err error) error {
	e := &Error{Line: 1, Detail: err.Error()}
	if m := yamlLine.FindStringSubmatch(strings.ReplaceAll(err.Error(), "\n", " ")); m != nil {
		e.Detail = m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			e.Line = n
		}
	}
	return e
}

type reader struct {
	s    Settings
	vms  map[string]Captured
	errs []error
}

func (r *reader) wrong(n *yaml.Node, field, format string, args ...any) {
	r.errs = append(r.errs, &Error{Line: n.Line, Field: field, Detail: fmt.Sprintf(format, args...)})
}

// fields calls the function of each key of a mapping.
func (r *reader) fields(n *yaml.Node, at string, known map[string]func(n *yaml.Node, at string)) {
	r.pairs(n, at, func(key, value *yaml.Node, at string) {
		read, ok := known[key.Value]
		if !ok {
			r.wrong(key, at, "there is no such setting; possible are %s", strings.Join(slices.Sorted(maps.Keys(known)), ", "))
			return
		}
		read(value, at)
	})
}

// pairs calls do for each pair of a mapping. A value that is left empty is as if it was not there.
func (r *reader) pairs(n *yaml.Node, at string, do func(key, value *yaml.Node, at string)) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.wrong(n, at, "settings are needed here, each a \"name: value\"")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		field := strings.TrimPrefix(at+"."+key.Value, ".")
		switch {
		case seen[key.Value]:
			r.wrong(key, field, "it is there twice")
		case value.Kind == yaml.ScalarNode && value.Tag == "!!null":
		default:
			do(key, value, field)
		}
		seen[key.Value] = true
	}
}

func (r *reader) top(n *yaml.Node) {
	r.fields(n, "", map[string]func(*yaml.Node, string){
		"vms":      func(n *yaml.Node, at string) { r.pairs(n, at, r.vm) },
		"networks": func(n *yaml.Node, at string) { r.pairs(n, at, r.network) },
		"before":   func(n *yaml.Node, at string) { r.s.Before = r.commands(n, at) },
		"after":    func(n *yaml.Node, at string) { r.s.After = r.commands(n, at) },
	})
}

func (r *reader) vm(key, n *yaml.Node, at string) {
	if _, ok := r.vms[key.Value]; !ok {
		r.gone(key, at, "the group has no such VM; it has %s", slices.Sorted(maps.Keys(r.vms)))
	}
	v := VM{Order: 1}
	r.fields(n, at, map[string]func(*yaml.Node, string){
		"order":  func(n *yaml.Node, at string) { v.Order = r.number(n, at, 0, 1000) },
		"delay":  func(n *yaml.Node, at string) { v.Delay = r.duration(n, at) },
		"cpus":   func(n *yaml.Node, at string) { v.CPUs = r.number(n, at, 1, 4096) },
		"memory": func(n *yaml.Node, at string) { v.Memory = r.size(n, at) },
		"before": func(n *yaml.Node, at string) { v.Before = r.commands(n, at) },
		"after":  func(n *yaml.Node, at string) { v.After = r.commands(n, at) },
		"check":  func(n *yaml.Node, at string) { v.Check = r.check(n, at) },
	})
	r.s.VMs[key.Value] = v
}

func (r *reader) network(key, n *yaml.Node, at string) {
	var have []string
	for _, c := range r.vms {
		for _, nic := range c.NICs {
			have = append(have, NetworkOf(nic))
		}
	}
	slices.Sort(have)
	if have = slices.Compact(have); !slices.Contains(have, key.Value) {
		r.gone(key, at, "no VM of the group is connected to it; they are to %s", have)
	}
	net := Network{Failover: Target{Kind: SameKind}}
	r.fields(n, at, map[string]func(*yaml.Node, string){
		"failover": func(n *yaml.Node, at string) { net.Failover = r.target(n, at) },
		"test":     func(n *yaml.Node, at string) { net.Test = r.target(n, at) },
	})
	r.s.Networks[key.Value] = net
}

// gone is wrong about something that may have been there once.
func (r *reader) gone(n *yaml.Node, field, format string, have []string) {
	list := strings.Join(have, ", ")
	if list == "" {
		list = "none"
	}
	r.errs = append(r.errs, &Error{Line: n.Line, Field: field, Detail: fmt.Sprintf(format, list), Gone: true})
}

func (r *reader) scalar(n *yaml.Node, at, what string) (string, bool) {
	if n.Kind != yaml.ScalarNode {
		r.wrong(n, at, "%s is needed here", what)
		return "", false
	}
	return n.Value, true
}

func (r *reader) number(n *yaml.Node, at string, from, to int) int {
	what := fmt.Sprintf("a number from %d to %d", from, to)
	text, ok := r.scalar(n, at, what)
	v, err := strconv.Atoi(text)
	if ok && (err != nil || v < from || v > to) {
		r.wrong(n, at, "%s is needed here, not %q", what, text)
	}
	return v
}

// maxDelay bounds what may be a slip of the hand.
const maxDelay = 24 * time.Hour

func (r *reader) duration(n *yaml.Node, at string) time.Duration {
	const what = "a time like 30s or 5m, 24h at most,"
	text, ok := r.scalar(n, at, what)
	v, err := time.ParseDuration(text)
	if text == "0" {
		v, err = 0, nil
	}
	if ok && (err != nil || v < 0 || v > maxDelay) {
		r.wrong(n, at, "%s is needed here, not %q", what, text)
	}
	return v
}

var sizeText = regexp.MustCompile(`^(\d{1,9}) ?([MGT])iB$`)

func (r *reader) size(n *yaml.Node, at string) int64 {
	const what = "a size like 512MiB or 4GiB"
	text, ok := r.scalar(n, at, what)
	if !ok {
		return 0
	}
	m := sizeText.FindStringSubmatch(text)
	if m == nil || strings.Trim(m[1], "0") == "" {
		r.wrong(n, at, "%s is needed here, not %q", what, text)
		return 0
	}
	v, _ := strconv.ParseInt(m[1], 10, 64) // nine digits
	return v << map[string]int{"M": 20, "G": 30, "T": 40}[m[2]]
}

// targetName is what interfaces and libvirt's networks are called; it goes into a command line.
var targetName = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,64}$`)

func (r *reader) target(n *yaml.Node, at string) Target {
	const what = `"isolated", "same", or "bridge NAME", "tap NAME" or "network NAME"`
	text, ok := r.scalar(n, at, what)
	kind, name, named := strings.Cut(text, " ")
	switch {
	case !ok, text == "isolated":
		return Isolated
	case text == SameKind:
		return Target{Kind: SameKind}
	case named && slices.Contains([]string{"bridge", "tap", "network"}, kind) && targetName.MatchString(name):
		return Target{Kind: kind, Name: name}
	}
	r.wrong(n, at, "%s is needed here, not %q", what, text)
	return Isolated
}

// commands are one, or a list.
func (r *reader) commands(n *yaml.Node, at string) (list []string) {
	nodes := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		nodes = n.Content
	}
	for i, c := range nodes {
		field := at
		if n.Kind == yaml.SequenceNode {
			field = fmt.Sprintf("%s[%d]", at, i)
		}
		text, ok := r.scalar(c, field, "a command")
		program, _, _ := strings.Cut(text, " ")
		switch {
		case !ok:
		case !filepath.IsAbs(program):
			r.wrong(c, field, "a command begins with the absolute path of a program, not with %q", program)
		default:
			list = append(list, text)
		}
	}
	return list
}

// Errors are those that Parse has joined.
func Errors(err error) (all []*Error) {
	var one *Error
	if errors.As(err, &one) && error(one) == err {
		return []*Error{one}
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			all = append(all, Errors(err)...)
		}
	}
	return all
}
