// Package cmdline reads the command line of a QEMU and makes of it the one of the same VM on another host, whose volumes are mounts. It is apart from package qemu, which
// talks to a QEMU that runs.
//
// What the options mean is in qemu(1); which of them stay and which do not stands in options.go.
package cmdline

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Line is a command line, taken apart.
type Line struct {
	Exe     string
	Options []Option
}

// Option is one option. Its name is without dashes, and empty for an image that is named without an option.
type Option struct {
	Name  string
	Value string // "" where the option takes none
}

// Parse takes the arguments of a process apart, the program's name first. They are those of a QEMU that runs, so they are well formed as far as QEMU goes.
func Parse(argv []string) (Line, error) {
	if len(argv) == 0 {
		return Line{}, fmt.Errorf("read QEMU's command line: it is empty")
	}
	l := Line{Exe: argv[0]}
	for i := 1; i < len(argv); i++ {
		name, dashed := strings.CutPrefix(argv[i], "-")
		if !dashed || name == "" {
			l.Options = append(l.Options, Option{Value: argv[i]})
			continue
		}
		o := Option{Name: strings.TrimPrefix(name, "-")}
		if !alone[o.Name] {
			if i++; i == len(argv) {
				return Line{}, fmt.Errorf("read QEMU's command line: -%s is the last argument, and has no value", o.Name)
			}
			o.Value = argv[i]
		}
		l.Options = append(l.Options, o)
	}
	return l, nil
}

// Argv is the inverse of Parse.
func (l Line) Argv() []string {
	argv := []string{l.Exe}
	for _, o := range l.Options {
		argv = append(argv, o.argv()...)
	}
	return argv
}

func (o Option) argv() []string {
	switch {
	case o.Name == "":
		return []string{o.Value}
	case alone[o.Name]:
		return []string{"-" + o.Name}
	}
	return []string{"-" + o.Name, o.Value}
}

// String is the option as on a command line, for people.
func (o Option) String() string { return strings.Join(o.argv(), " ") }

// props are the properties in an option's value: id=a,b=c, or a JSON object. Those of nested objects have names like file.driver.
type props []prop

type prop struct{ key, value string }

// parseProps takes a value apart. implied is the name of the first property, if that may stand without one.
func parseProps(value, implied string) (props, error) {
	if strings.HasPrefix(value, "{") {
		var tree map[string]any
		if err := json.Unmarshal([]byte(value), &tree); err != nil {
			return nil, fmt.Errorf("%q: %w", value, err)
		}
		var p props
		p.flatten("", tree)
		return p, nil
	}
	var p props
	for i, part := range splitCommas(value) {
		key, v, ok := strings.Cut(part, "=")
		switch {
		case ok:
			p = append(p, prop{key, v})
		case i == 0 && implied != "":
			p = append(p, prop{implied, part})
		case strings.HasPrefix(part, "no"): // the short form of a flag
			p = append(p, prop{part[2:], "off"})
		default:
			p = append(p, prop{part, "on"})
		}
	}
	return p, nil
}

// splitCommas splits at single commas; two stand for one of a value.
func splitCommas(s string) (parts []string) {
	var part strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != ',':
			part.WriteByte(s[i])
		case i+1 < len(s) && s[i+1] == ',':
			part.WriteByte(',')
			i++
		default:
			parts = append(parts, part.String())
			part.Reset()
		}
	}
	return append(parts, part.String())
}

func (p *props) flatten(prefix string, tree map[string]any) {
	keys := make([]string, 0, len(tree))
	for k := range tree {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		switch v := tree[k].(type) {
		case map[string]any:
			p.flatten(prefix+k+".", v)
		case bool:
			*p = append(*p, prop{prefix + k, map[bool]string{true: "on", false: "off"}[v]})
		default:
			*p = append(*p, prop{prefix + k, fmt.Sprint(v)})
		}
	}
}

// get is a property, "" without it. Of several the last one counts.
func (p props) get(key string) string {
	for _, q := range slices.Backward(p) {
		if q.key == key {
			return q.value
		}
	}
	return ""
}

// only are the properties named, in their order.
func (p props) only(keys ...string) props {
	return slices.DeleteFunc(slices.Clone(p), func(q prop) bool { return !slices.Contains(keys, q.key) })
}

// without are the properties but those named.
func (p props) without(keys ...string) props {
	return slices.DeleteFunc(slices.Clone(p), func(q prop) bool { return slices.Contains(keys, q.key) })
}

// String is the value of an option. The first property stands without its name where that is implied.
func (p props) text(implied string) string {
	var parts []string
	for i, q := range p {
		v := strings.ReplaceAll(q.value, ",", ",,")
		if i == 0 && q.key == implied {
			parts = append(parts, v)
			continue
		}
		parts = append(parts, q.key+"="+v)
	}
	return strings.Join(parts, ",")
}
