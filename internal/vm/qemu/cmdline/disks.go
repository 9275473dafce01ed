package cmdline

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/nbd"
)

// reconnectDelay is for how long a recovered VM's request waits when the hub is away, before the guest has an error; seconds.
const reconnectDelay = 3600

// store is an option that is a disk, or a part of one.
type store struct {
	at    int // of the options
	props props
	drive bool
	// Nodes by which a blockdev refers to others.
	children []string
	used     bool
}

// shorthands are options that stand for a -drive.
var shorthands = map[string]props{
	"": {{"index", "0"}, {"media", "disk"}}, "hda": {{"index", "0"}, {"media", "disk"}}, "hdb": {{"index", "1"}, {"media", "disk"}}, "hdc": {{"index", "2"}, {"media", "disk"}},
	"hdd": {{"index", "3"}, {"media", "disk"}}, "cdrom": {{"index", "2"}, {"media", "cdrom"}}, "fda": {{"if", "floppy"}, {"index", "0"}}, "fdb": {{"if", "floppy"}, {"index", "1"}},
	"sd": {{"if", "sd"}}, "mtdblock": {{"if", "mtd"}}, "pflash": {{"if", "pflash"}},
}

// driveKeys are the properties of a -drive that are the device's, not the file's.
var driveKeys = []string{"if", "id", "index", "bus", "unit", "media", "node-name", "serial", "werror", "rerror", "discard", "detect-zeroes", "copy-on-read"}

// disks says for each option that is storage what it becomes.
func (v *recovering) disks(options []Option) (map[int][]Option, error) {
	stores, err := storesOf(options)
	if err != nil {
		return nil, err
	}
	out := map[int][]Option{}
	for _, d := range v.Disks {
		i := slices.IndexFunc(stores, func(s *store) bool { return !s.used && s.is(d) })
		if i < 0 {
			return nil, fmt.Errorf("volume %s (node %s, file %s) is on no option of the command line; it may have been plugged in later", d.Name, d.Node, d.File)
		}
		s := stores[i]
		if node := s.props.get("node-name"); node != "" && d.At != "" {
			v.moved[node] = d.At
		}
		if out[s.at], err = s.over(d); err != nil {
			return nil, fmt.Errorf("volume %s: %w", d.Name, err)
		}
		use(stores, s)
	}
	for _, s := range stores {
		if !s.used && !s.inner(stores) {
			out[s.at] = v.rest(stores, s, machineNodes(options))
		}
	}
	return out, nil
}

func storesOf(options []Option) ([]*store, error) {
	var stores []*store
	for i, o := range options {
		s := &store{at: i, drive: o.Name != "blockdev"}
		switch short, ok := shorthands[o.Name]; {
		case ok:
			s.props = append(slices.Clone(short), prop{"file", o.Value})
		case o.Name == "drive" || o.Name == "blockdev":
			var err error
			implied := "driver"
			if s.drive {
				implied = ""
			}
			if s.props, err = parseProps(o.Value, implied); err != nil {
				return nil, fmt.Errorf("-%s %w", o.Name, err)
			}
		default:
			continue
		}
		if !s.drive {
			for _, key := range []string{"file", "backing", "data-file"} {
				if child := s.props.get(key); child != "" {
					s.children = append(s.children, child)
				}
			}
		}
		stores = append(stores, s)
	}
	return stores, nil
}

// file is what a store is in, "" for one that is on top of another.
func (s *store) file() string {
	if f := s.props.get("file.filename"); f != "" {
		return f
	}
	if s.drive {
		return s.props.get("file")
	}
	return s.props.get("filename")
}

// is tells whether a store is the volume.
func (s *store) is(d Disk) bool {
	if node := s.props.get("node-name"); node != "" || !s.drive {
		return node == d.Node || node != "" && node == vm.AtNode(d.Disk) // it has moved since
	}
	return s.props.get("id") == d.Node || s.file() == d.File && d.File != ""
}

// inner tells whether a store is a part of another one.
func (s *store) inner(all []*store) bool {
	return slices.ContainsFunc(all, func(o *store) bool { return slices.Contains(o.children, s.props.get("node-name")) })
}

// use marks a store, and what it consists of.
func use(all []*store, s *store) {
	s.used = true
	for _, o := range all {
		if !o.used && slices.Contains(s.children, o.props.get("node-name")) {
			use(all, o)
		}
	}
}

// over is the option for a volume that is served over NBD, or is in an image.
func (s *store) over(d Disk) ([]Option, error) {
	source, err := d.source()
	if err != nil {
		return nil, err
	}
	if s.drive {
		p := s.props.only(driveKeys...)
		if d.At != "" {
			p = append(p.without("node-name"), prop{"node-name", d.At})
		}
		p = append(p, prop{"format", "raw"})
		var tree props
		tree.flatten("file.", source)
		return []Option{{"drive", append(p, tree...).text("")}}, nil
	}
	node := source
	if d.Image != "" {
		node = map[string]any{"driver": "raw", "file": source}
	}
	node["node-name"] = cmp.Or(d.At, s.props.get("node-name"))
	for _, key := range []string{"discard", "detect-zeroes"} {
		if val := s.props.get(key); val != "" {
			node[key] = val
		}
	}
	text, err := json.Marshal(node)
	return []Option{{"blockdev", string(text)}}, err
}

// source is the node with the data.
func (d *Disk) source() (map[string]any, error) {
	if d.Image != "" {
		return map[string]any{"driver": "file", "filename": d.Image, "discard": "unmap"}, nil
	}
	u, err := nbd.ParseURI(d.URI)
	if err != nil {
		return nil, err
	}
	server := map[string]any{"type": "inet", "host": u.Host, "port": u.Port}
	if u.Unix {
		server = map[string]any{"type": "unix", "path": u.Socket}
	}
	return map[string]any{"driver": "nbd", "server": server, "export": u.Export, "reconnect-delay": reconnectDelay}, nil
}

// rest is what becomes of a store that is no volume of ours: firmware stays, media are taken out, other disks are left out.
func (v *recovering) rest(all []*store, s *store, firmware []string) []Option {
	use(all, s)
	node, id := s.props.get("node-name"), s.props.get("id")
	kind := s.props.get("if")
	switch {
	case kind == "pflash" || slices.Contains(firmware, node) && node != "":
		return v.firmware(all, s)
	case s.drive && (s.props.get("media") == "cdrom" || kind == "floppy"):
		return []Option{{"drive", s.props.only(driveKeys...).text("")}}
	}
	for _, name := range []string{node, id} {
		if name != "" {
			v.gone[name] = true
			v.empty[name] = on(s.props.get("read-only")) || on(s.props.get("readonly"))
		}
	}
	if !on(s.props.get("read-only")) && !on(s.props.get("readonly")) {
		v.note("a disk that is not protected, and is not there elsewhere: %s", strings.Join(strings.Fields(node+" "+id+" "+s.fileIn(all)), " "))
	}
	return nil
}

// fileIn is the file that a store is in, or what it is on top of.
func (s *store) fileIn(all []*store) string {
	if f := s.file(); f != "" {
		return f
	}
	for _, o := range all {
		if slices.Contains(s.children, o.props.get("node-name")) {
			return o.fileIn(all)
		}
	}
	return ""
}

// firmware keeps the flash of a VM; files that are somewhere else are named anew.
func (v *recovering) firmware(all []*store, s *store) (out []Option) {
	for _, o := range all {
		if o != s && !slices.Contains(s.children, o.props.get("node-name")) {
			continue
		}
		p := slices.Clone(o.props)
		for i, q := range p {
			if to, ok := v.Files[q.value]; ok && (q.key == "file" || q.key == "filename" || q.key == "file.filename") {
				p[i].value = to
			}
		}
		name := "blockdev"
		if o.drive {
			name = "drive"
		}
		out = append(out, Option{name, p.text("driver")})
	}
	return out
}

// machineNodes are the nodes that the machine itself has: its flash.
func machineNodes(options []Option) (nodes []string) {
	for _, o := range options {
		if o.Name != "machine" && o.Name != "M" {
			continue
		}
		p, err := parseProps(o.Value, "type")
		if err != nil {
			continue
		}
		for _, q := range p {
			if strings.HasPrefix(q.key, "pflash") {
				nodes = append(nodes, q.value)
			}
		}
	}
	return nodes
}

// withDrive is the value of a -device option, on another node. What else is in it stays to the letter.
func withDrive(device, node string) (string, error) {
	if strings.HasPrefix(device, "{") {
		var tree map[string]json.RawMessage
		if err := json.Unmarshal([]byte(device), &tree); err != nil {
			return "", err
		}
		var err error
		if tree["drive"], err = json.Marshal(node); err != nil {
			return "", err
		}
		text, err := json.Marshal(tree)
		return string(text), err
	}
	parts := splitCommas(device)
	for i, part := range parts {
		if strings.HasPrefix(part, "drive=") {
			part = "drive=" + node
		}
		parts[i] = strings.ReplaceAll(part, ",", ",,")
	}
	return strings.Join(parts, ","), nil
}
