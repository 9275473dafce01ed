package plan

import (
	"fmt"

	"go.yaml.in/yaml/v3"
)

// maxSerial is the longest text that is looked for on a serial line, bytes.
const maxSerial = 1 << 10

// check reads what is looked at in a failover test.
func (r *reader) check(n *yaml.Node, at string) (c Check) {
	r.fields(n, at, map[string]func(*yaml.Node, string){
		"agent":   func(n *yaml.Node, at string) { c.Agent = r.yes(n, at) },
		"screen":  func(n *yaml.Node, at string) { c.Screen = r.yes(n, at) },
		"serial":  func(n *yaml.Node, at string) { c.Serial = r.text(n, at, maxSerial) },
		"timeout": func(n *yaml.Node, at string) { c.Timeout = r.duration(n, at) },
		"command": func(n *yaml.Node, at string) {
			if list := r.commands(n, at); len(list) == 1 {
				c.Command = list[0]
			} else if len(list) > 1 {
				r.wrong(n, at, "one command is needed here, not %d", len(list))
			}
		},
	})
	return c
}

// yes reads a truth.
func (r *reader) yes(n *yaml.Node, at string) bool {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
		r.wrong(n, at, "true or false is needed here, not %q", n.Value)
		return false
	}
	var v bool
	if err := n.Decode(&v); err != nil {
		r.wrong(n, at, "true or false is needed here, not %q", n.Value)
	}
	return v
}

// text reads a text that is not empty.
func (r *reader) text(n *yaml.Node, at string, limit int) string {
	what := fmt.Sprintf("a text of at most %d bytes", limit)
	text, ok := r.scalar(n, at, what)
	if ok && (text == "" || len(text) > limit) {
		r.wrong(n, at, "%s is needed here", what)
	}
	return text
}
