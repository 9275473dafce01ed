package cmdline

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/rephub/rephub/internal/vm"
)

// Recovery says how a VM is started elsewhere.
type Recovery struct {
	// Name is that of the VM here.
	Name string
	// RunDir is the VM's folder, for sockets: its monitor is "qmp" in it.
	RunDir string
	// Monitors are paths of more QMP sockets: each of them serves one client at a time.
	Monitors []string
	// CPUs and Memory (bytes) take the place of what the VM had; 0: as it was.
	CPUs   int
	Memory int64
	// Disks are the volumes that it gets. Others are left out.
	Disks []Disk
	// Files tells where files of the VM are now: the variables of its firmware.
	Files map[string]string
	// Network is the backend for a network card, as for -netdev but without its id: "bridge,br=br1". Nil, or "": a network of the VM's own, from which nothing gets out. Same: as it was.
	Network func(NIC) string
}

// Disk is a volume, and where it is now.
type Disk struct {
	Name string // for people
	Disk string // what it is called in its VM
	Node string // its node in the VM whose command line it is
	File string // its file there
	URI  string // NBD; or
	// Image is a raw image, with its path on the recovery host.
	Image string
	// At is the node that it gets, so that Node is free for what takes its place while the VM runs; "": its node as before.
	At string
}

// Nodes are the names for a disk of a recovered VM: at while it is served over NBD, and on when it has moved to a file here. vm.Volume.Name is the same all the while. A node that
// somebody had named has its name back in the end.
func Nodes(disk, node string) (at, on string) {
	if disk == node {
		return vm.AtNode(disk), disk
	}
	return vm.AtNode(disk), vm.OnNode(disk)
}

// Note says what of a VM is not as it was, for people.
type Note string

// recovering is a Line on its way.
type recovering struct {
	Recovery
	out   []Option
	notes []Note
	// Nodes and ids of what is not there any more, and chardevs of monitors.
	gone    map[string]bool
	empty   map[string]bool // media that were taken out
	mons    map[string]bool
	moved   map[string]string // nodes that have another name
	serials int
	helper  bool // a network may need a program of the host's to be set up
}

// Recover makes the command line of the VM elsewhere. Notes say what it has not got, or not as before. An error says what cannot be done at all.
func (l Line) Recover(r Recovery) (Line, []Note, error) {
	v := recovering{Recovery: r, gone: map[string]bool{}, empty: map[string]bool{}, mons: map[string]bool{}, moved: map[string]string{}}
	disks, err := v.disks(l.Options)
	if err != nil {
		return Line{}, nil, err
	}
	for _, o := range l.Options {
		if o.Name == "mon" {
			p, err := parseProps(o.Value, "chardev")
			if err != nil {
				return Line{}, nil, fmt.Errorf("-mon %w", err)
			}
			v.mons[p.get("chardev")] = true
		}
	}
	nics, err := nicsOf(l.Options)
	if err != nil {
		return Line{}, nil, err
	}
	for i, o := range l.Options {
		if err := v.option(o, disks[i], nics[i]); err != nil {
			return Line{}, nil, fmt.Errorf("%s: %w", o, err)
		}
	}
	if err := v.finish(l.Options); err != nil {
		return Line{}, nil, err
	}
	return Line{Exe: l.Exe, Options: v.out}, v.notes, nil
}

func (v *recovering) add(name, value string) { v.out = append(v.out, Option{name, value}) }

func (v *recovering) note(format string, args ...any) {
	v.notes = append(v.notes, Note(fmt.Sprintf(format, args...)))
}

// option adds what becomes of one option; disk is what the storage becomes that it is, nic the card that it connects.
func (v *recovering) option(o Option, disk []Option, nic NIC) error {
	switch {
	case o.Name == "smp" && v.CPUs > 0, o.Name == "m" && v.Memory > 0:
		return nil // finish adds ours
	}
	switch fates[o.Name] {
	case keep:
		v.out = append(v.out, o)
	case refuse:
		return fmt.Errorf("what it stands for is not known elsewhere; write it out on the command line")
	case storage:
		v.out = append(v.out, disk...)
	case network:
		return v.network(o, nic)
	case device:
		return v.device(o)
	case char:
		return v.char(o)
	case share:
		v.note("a folder of the host is shared with the VM, and is not there elsewhere: %s", o)
	}
	return nil
}

// device keeps a device, unless what it is for has gone.
func (v *recovering) device(o Option) error {
	p, err := parseProps(o.Value, "driver")
	if err != nil {
		return err
	}
	driver, drive := p.get("driver"), p.get("drive")
	switch {
	case hostDevices[driver]:
		v.note("a device of the host, which is not there elsewhere: %s", o)
	case sharing[driver]:
	case drive != "" && v.empty[drive]:
		v.add("device", p.without("drive").text("driver"))
	case drive != "" && v.gone[drive]: // said when the disk was
	case v.moved[drive] != "":
		at, err := withDrive(o.Value, v.moved[drive])
		if err != nil {
			return err
		}
		v.add("device", at)
	default:
		v.out = append(v.out, o)
	}
	return nil
}

// serialID begins the names of the rings that keep serial lines.
const serialID = "rephub-serial"

// serialSize is what is kept of a serial line's output, bytes; a power of two.
const serialSize = 64 << 10

// char connects character devices to what is there elsewhere.
func (v *recovering) char(o Option) error {
	switch o.Name {
	case "serial":
		if o.Value == "none" {
			v.out = append(v.out, o)
			return nil
		}
		id := fmt.Sprintf("%s%d", serialID, v.serials)
		v.serials++
		v.add("chardev", fmt.Sprintf("ringbuf,id=%s,size=%d", id, serialSize))
		v.add("serial", "chardev:"+id)
		return nil
	case "parallel", "debugcon":
		v.add(o.Name, "null")
		return nil
	}
	p, err := parseProps(o.Value, "backend")
	if err != nil {
		return err
	}
	id := p.get("id")
	switch {
	case v.mons[id], strings.HasPrefix(id, serialID): // made anew, for a VM that was recovered before
	case p.get("backend") == "socket" && on(p.get("server")) && filepath.Base(id) == id:
		v.add("chardev", props{{"backend", "socket"}, {"id", id}, {"path", filepath.Join(v.RunDir, id)}, {"server", "on"}, {"wait", "off"}}.text("backend"))
	default:
		v.add("chardev", props{{"backend", "null"}, {"id", id}}.text("backend"))
	}
	return nil
}

func on(v string) bool { return v == "on" || v == "yes" || v == "true" || v == "y" }

// finish adds what every recovered VM has.
func (v *recovering) finish(was []Option) error {
	has := func(names ...string) bool {
		return slices.ContainsFunc(was, func(o Option) bool { return slices.Contains(names, o.Name) })
	}
	if has("nographic") && v.serials == 0 && !has("serial") { // it connects the first line to the terminal
		if err := v.char(Option{Name: "serial"}); err != nil {
			return err
		}
	}
	if !has("nodefaults", "nic", "net", "netdev") {
		to := v.target(NIC{Backend: "user"})
		if to == Same { // what QEMU adds by itself
			to = "user"
		}
		v.add("nic", to)
	}
	if v.CPUs > 0 {
		v.add("smp", strconv.Itoa(v.CPUs))
	}
	if v.Memory > 0 {
		v.add("m", fmt.Sprintf("%dM", v.Memory>>20))
	}
	v.add("sandbox", v.sandbox())
	v.add("name", props{{"guest", v.Name}}.text("guest"))
	v.add("display", "none")
	v.add("monitor", "none")
	for _, path := range append([]string{filepath.Join(v.RunDir, "qmp")}, v.Monitors...) {
		v.add("qmp", props{{"", "unix:" + path}, {"server", "on"}, {"wait", "off"}}.text(""))
	}
	return nil
}

// sandbox is what a guest that breaks out of its hardware can do on the recovery host, where the histories of others are: as libvirt has it.
func (v *recovering) sandbox() string {
	p := props{{"enable", "on"}, {"obsolete", "deny"}, {"resourcecontrol", "deny"}}
	if !v.helper {
		p = append(p, prop{"elevateprivileges", "deny"}, prop{"spawn", "deny"})
	}
	return p.text("enable")
}
