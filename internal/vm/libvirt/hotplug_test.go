package libvirt_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// plugs is a domain that disks are plugged into and unplugged from.
type plugs struct {
	t      *testing.T
	l      *vmtest.Libvirtd
	d      *vmtest.Domain
	v      vm.VM
	events vm.Events
	sda    string // XML of a disk that can go without the guest's help
}

func newPlugs(t *testing.T, l *vmtest.Libvirtd, domain string) *plugs {
	t.Helper()
	p := &plugs{t: t, l: l, d: l.Define(t, domain, vmtest.Disk{}, vmtest.Disk{Format: "qcow2"})}
	p.v = open(t, l, domain)
	p.events = p.v.Subscribe()
	t.Cleanup(p.events.Close)
	p.sda = strings.NewReplacer("'vdc'", "'sda'", "'virtio'", "'scsi'").Replace(p.d.DiskXML(2, vmtest.Disk{}))
	return p
}

// volumes fails the test when there are others than these, and gives their nodes.
func (p *plugs) volumes(want ...string) []string {
	p.t.Helper()
	list, err := p.v.Volumes(deadline(p.t))
	if err != nil {
		p.t.Fatal(err)
	}
	var names, nodes []string
	for _, w := range list {
		names, nodes = append(names, w.Name), append(nodes, w.Node)
	}
	if !slices.Equal(names, want) {
		p.t.Fatalf("volumes %v, want %v", names, want)
	}
	return nodes
}

// plug and unplug also wait for the event that tells it.
func (p *plugs) plug() {
	p.t.Helper()
	if err := p.l.Lib().DomainAttachDevice(p.d.Dom(), p.sda); err != nil {
		p.t.Fatal(err)
	}
	p.told()
}

func (p *plugs) unplug() {
	p.t.Helper()
	if err := p.l.Lib().DomainDetachDevice(p.d.Dom(), p.sda); err != nil {
		p.t.Fatal(err)
	}
	p.told()
}

func (p *plugs) told() {
	p.t.Helper()
	for {
		e, err := p.events.Next(deadline(p.t))
		if err != nil {
			p.t.Fatal(err)
		}
		if e.Kind == vm.EventDevices && strings.Contains(e.Device, "scsi0-0-0-0") {
			return
		}
	}
}

func (p *plugs) check(taps []vm.Tap) {
	p.t.Helper()
	if err := p.v.CheckBypass(deadline(p.t), taps); err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.v.CheckFence(deadline(p.t), taps); err != nil {
		p.t.Fatal(err)
	}
}

// Disks have the names that libvirt's users know, also when they come and go.
func hotplug(t *testing.T, l *vmtest.Libvirtd) {
	p := newPlugs(t, l, "hotplug")
	taps := attach(t, p.v, p.volumes("vda", "vdb")...)
	p.plug()
	p.volumes("sda", "vda", "vdb")
	p.check(taps)
	p.unplug()
	p.volumes("vda", "vdb")
	p.check(taps)
	if err := p.v.Detach(deadline(t), taps); err != nil {
		t.Fatal(err)
	}
	p.volumes("vda", "vdb")
}

// A disk is unplugged with a tap on it: libvirt cannot remove its nodes, so we do.
func unplugTapped(t *testing.T, l *vmtest.Libvirtd) {
	p := newPlugs(t, l, "unplug")
	p.plug()
	node := p.volumes("sda", "vda", "vdb")[0]
	taps := attach(t, p.v, node)
	p.check(taps)
	p.unplug()
	p.volumes("vda", "vdb")
	if err := p.v.Detach(deadline(t), taps); err != nil {
		t.Fatal(err)
	}
	var nodes []struct {
		Node string `json:"node-name"`
	}
	p.d.Must("query-named-block-nodes", map[string]any{"flat": true}, &nodes)
	if len(nodes) != 4 { // format and storage of vda and vdb
		t.Fatalf("nodes %v", nodes)
	}
	p.plug()
	p.volumes("sda", "vda", "vdb")
}

// What is refused while taps are on, and is not any more without them.
func refused(t *testing.T, l *vmtest.Libvirtd) {
	p := newPlugs(t, l, "refused")
	taps := attach(t, p.v, p.volumes("vda", "vdb")...)
	image := func(name string) string { return filepath.Join(l.Dir, "images", name) }
	try := []struct {
		what string
		do   func() error
	}{
		{"resize", func() error {
			return l.Lib().DomainBlockResize(p.d.Dom(), "vda", 128<<20, golibvirt.DomainBlockResizeBytes)
		}},
		{"snapshot", func() error {
			_, err := l.Lib().DomainSnapshotCreateXML(p.d.Dom(), "<domainsnapshot><disks><disk name='vda' snapshot='no'/><disk name='vdb' snapshot='external'><source file='"+
				image("overlay")+"'/></disk></disks></domainsnapshot>", uint32(golibvirt.DomainSnapshotCreateDiskOnly|golibvirt.DomainSnapshotCreateNoMetadata))
			return err
		}},
		{"backup", func() error {
			return l.Lib().DomainBackupBegin(p.d.Dom(), "<domainbackup mode='push'><disks><disk name='vda' type='file'><target file='"+
				image("backup")+"'/></disk><disk name='vdb' backup='no'/></disks></domainbackup>", nil, 0)
		}},
	}
	for _, x := range try {
		err := x.do()
		if err == nil {
			t.Errorf("%s is not refused", x.what)
		}
	}
	// The images that libvirt made meanwhile may have been ours, for all we know.
	if err := p.v.CheckBypass(deadline(t), taps); !errors.As(err, new(*vm.BypassError)) {
		t.Errorf("got %v", err)
	}
	if err := p.v.Detach(deadline(t), taps); err != nil {
		t.Fatal(err)
	}
	for _, x := range try {
		if err := x.do(); err != nil {
			t.Errorf("%s without a tap: %v", x.what, err)
		}
	}
	p.volumes("vda", "vdb") // vdb with an overlay
}
