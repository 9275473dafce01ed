package vmtest

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/rephub/rephub/qmp"
)

// Domain is a domain of a Libvirtd: a QEMU without acceleration that does not run
// its guest until it is told to. Its disks are called vda, vdb, …
type Domain struct {
	Name string

	t     testing.TB
	d     *Libvirtd
	nodes []string
	qdevs []string // of the disks' devices
	dom   golibvirt.Domain
}

const domainXML = `<domain type='qemu'>
  <name>%s</name> <memory unit='MiB'>32</memory> <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/> <memballoon model='none'/> <controller type='scsi' model='virtio-scsi'/>
%s  </devices>
</domain>`

// Define makes a domain and starts it. Of a Disk, Size and Format count; the nodes
// are named by libvirt.
func (l *Libvirtd) Define(t testing.TB, name string, disks ...Disk) *Domain {
	t.Helper()
	d := &Domain{Name: name, t: t, d: l}
	var xml strings.Builder
	for i := range disks {
		xml.WriteString(d.DiskXML(i, disks[i]))
	}
	var err error
	if d.dom, err = l.lib.DomainDefineXMLFlags(fmt.Sprintf(domainXML, name, xml.String()), 0); err != nil {
		t.Fatalf("define domain %s: %v", name, err)
	}
	t.Cleanup(func() {
		d.Kill()
		l.lib.DomainUndefine(d.dom) // libvirt takes its time to notice; the test does not wait
	})
	d.Start()
	return d
}

// DiskXML makes the image of the i-th disk, unless it is there, and describes it.
func (d *Domain) DiskXML(i int, disk Disk) string {
	d.t.Helper()
	target := fmt.Sprintf("vd%c", 'a'+i)
	format := cmp.Or(disk.Format, "raw")
	path := d.image(target)
	if _, err := os.Stat(path); err != nil {
		if out, err := exec.Command("qemu-img", "create", "-q", "-f", format, path, fmt.Sprint(cmp.Or(disk.Size, 64<<20))).CombinedOutput(); err != nil {
			d.t.Fatalf("create image: %v: %s", err, out)
		}
		d.d.give(filepath.Join("images", filepath.Base(path)))
	}
	shareable := ""
	if format == "raw" { // libvirt lets no other be shared
		shareable = "<shareable/>"
	}
	return fmt.Sprintf("    <disk type='file' device='disk'><driver name='qemu' type='%s'/><source file='%s'/><target dev='%s' bus='virtio'/>%s</disk>\n", format, path, target, shareable)
}

func (d *Domain) image(target string) string {
	return filepath.Join(d.d.Dir, "images", d.Name+"-"+target)
}

// Start starts the domain with its guest paused.
func (d *Domain) Start() {
	d.t.Helper()
	var err error
	if d.dom, err = d.d.lib.DomainCreateWithFlags(d.dom, uint32(golibvirt.DomainStartPaused)); err != nil {
		d.t.Fatalf("start domain %s: %v; libvirtd said: %s", d.Name, err, d.d.Stderr())
	}
	var blocks []struct {
		QDev     string
		Inserted struct {
			Node string `json:"node-name"`
		}
	}
	d.Must("query-block", nil, &blocks)
	d.nodes, d.qdevs = nil, nil
	for _, b := range blocks {
		d.nodes, d.qdevs = append(d.nodes, b.Inserted.Node), append(d.qdevs, b.QDev)
	}
}

// Restart kills the QEMU, if it runs, and starts another one when libvirt has
// noticed.
func (d *Domain) Restart() {
	d.t.Helper()
	d.Kill()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		state, _, err := d.d.lib.DomainGetState(d.dom, 0)
		if err != nil {
			d.t.Fatal(err)
		}
		if golibvirt.DomainState(state) == golibvirt.DomainShutoff {
			break
		}
		select {
		case <-tick.C:
		case <-d.t.Context().Done():
			d.t.Fatalf("libvirt does not notice that domain %s is gone", d.Name)
		}
	}
	d.Start()
}

// Do runs a command by the harness's own connection to the daemon.
func (d *Domain) Do(cmd string, args, result any) error {
	line, err := qmp.EncodeCommand(cmd, args)
	if err != nil {
		return err
	}
	reply, err := d.d.lib.QEMUDomainMonitorCommand(d.dom, string(line), 0)
	if err != nil {
		return err
	}
	return qmp.DecodeReply(cmd, []byte(reply), result)
}

// Must is Do that fails the test.
func (d *Domain) Must(cmd string, args, result any) {
	d.t.Helper()
	if err := d.Do(cmd, args, result); err != nil {
		d.t.Fatalf("QEMU of %s: %v", d.Name, err)
	}
}

// Nodes are the volumes' node names, in the order of the disks.
func (d *Domain) Nodes() []string { return d.nodes }

// Image is the path of a volume's image.
func (d *Domain) Image(node string) string {
	for i, n := range d.nodes {
		if n == node {
			return d.image(fmt.Sprintf("vd%c", 'a'+i))
		}
	}
	return ""
}

// Write runs qemu-io commands as the guest's disk would. QEMU tells in its log how
// each went.
func (d *Domain) Write(node string, commands ...string) {
	d.t.Helper()
	i := slices.Index(d.nodes, node)
	for _, c := range commands {
		before := d.log()
		var said string
		d.Must("human-monitor-command", map[string]any{"command-line": fmt.Sprintf("qemu-io -d %s %q", d.qdevs[i], c)}, &said)
		if now := strings.TrimPrefix(d.log(), before); !strings.HasPrefix(now, "wrote ") {
			d.t.Fatalf("qemu-io %q: %s%s", c, said, now)
		}
	}
}

func (d *Domain) log() string {
	d.t.Helper()
	b, err := os.ReadFile(filepath.Join(d.d.Dir, "cache/libvirt/qemu/log", d.Name+".log"))
	if err != nil {
		d.t.Fatal(err)
	}
	return string(b)
}

// Dom is libvirt's handle.
func (d *Domain) Dom() golibvirt.Domain { return d.dom }

// Kill kills the domain's QEMU, as a crash would.
func (d *Domain) Kill() { d.signal(syscall.SIGKILL) }

// Freeze stops the domain's QEMU in its tracks.
func (d *Domain) Freeze() { d.signal(syscall.SIGSTOP) }

// Thaw lets a frozen QEMU go on.
func (d *Domain) Thaw() { d.signal(syscall.SIGCONT) }

// signal does nothing when the domain does not run.
func (d *Domain) signal(s syscall.Signal) {
	if pid, ok := d.d.pid(d.Name); ok {
		syscall.Kill(pid, s)
	}
}
