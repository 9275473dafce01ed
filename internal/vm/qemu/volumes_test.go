package qemu_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

func volumes(t *testing.T, q *vmtest.QEMU) map[string]vm.Volume {
	t.Helper()
	v := open(t, q)
	defer v.Close()
	list, err := v.Volumes(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]vm.Volume)
	for _, w := range list {
		out[w.Name] = w
	}
	if len(out) != len(list) {
		t.Fatalf("names are not unique: %+v", list)
	}
	return out
}

func TestVolumesWithoutDevices(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{
		Disks: []vmtest.Disk{{Node: "data", Size: 8 << 20}, {Node: "cow", Format: "qcow2"}},
		Args: []string{
			"-blockdev", "driver=null-co,node-name=ro,read-only=on",
			"-blockdev", "driver=null-co,node-name=child,size=1048576",
			"-blockdev", "driver=raw,node-name=parent,file=child",
			"-object", "throttle-group,id=tg",
			"-blockdev", `{"driver":"throttle","node-name":"slow","throttle-group":"tg","file":{"driver":"null-co","size":1048576}}`,
		},
	})
	got := volumes(t, q)
	if len(got) != 4 {
		t.Fatalf("got %+v", got)
	}
	if v := got["data"]; v.Node != "data" || v.Size != 8<<20 || v.Format != "raw" || v.File != q.Image("data") || v.PersistentBitmaps || v.Device != "" || v.Tapped || v.Refusal != nil {
		t.Errorf("got %+v", v)
	}
	if v := got["cow"]; v.Size != 64<<20 || v.Format != "qcow2" || !v.PersistentBitmaps {
		t.Errorf("got %+v", v)
	}
	if v := got["parent"]; v.Node != "parent" {
		t.Errorf("got %+v", v)
	}
	if v := got["slow"]; v.Format != "null-co" {
		t.Errorf("got %+v", v)
	}
	// Taps of ours and other jobs change nothing.
	v := open(t, q)
	k := vmtest.StartNBDKit(t, "memory", "8M")
	taps := attach(t, v, request(k.Socket, "data"))
	v.Close()
	tapped := volumes(t, q)
	if w := tapped["data"]; len(tapped) != 4 || !w.Tapped || w.Node != "data" || w.Size != 8<<20 {
		t.Errorf("with a tap: %+v", tapped)
	}
	detach(t, open(t, q), taps)
}

func TestVolumesOfDevices(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{
		Machine: "q35", NoServer: true,
		Args: []string{
			"-object", "iothread,id=io1", "-object", "iothread,id=io2",
			"-uuid", "0f0e0d0c-0b0a-4000-8000-000102030405", "-name", "web",
			"-device", "virtio-scsi-pci,id=scsi0,iothread=io2",
			"-blockdev", "driver=null-co,node-name=iso,read-only=on",
			"-device", "ide-cd,id=cd0,bus=ide.0,drive=iso", "-device", "ide-cd,id=cd1,bus=ide.1",
			"-blockdev", "driver=null-co,node-name=unused,size=1048576",
			"-drive", "driver=null-co,if=none,id=old,size=1048576", "-device", "virtio-blk-pci,drive=old",
		},
		Disks: []vmtest.Disk{
			{Node: "plain", Device: "virtio-blk-pci,id=d0"},
			{Node: "fast", Device: "virtio-blk-pci,id=d1,iothread=io1"},
			{Node: "scsi", Device: "scsi-hd,id=d2,bus=scsi0.0", Format: "qcow2"},
			{Node: "sata", Device: "ide-hd,id=d3,bus=ide.2"},
		},
	})
	got := volumes(t, q)
	if len(got) != 5 {
		t.Errorf("got %d volumes: %+v", len(got), got)
	}
	for name, want := range map[string]struct{ iothread, device string }{
		"plain": {"", "/d0/"}, "fast": {"io1", "/d1/"}, "scsi": {"io2", "d2"}, "sata": {"", "d3"}, "old": {"", "/machine/peripheral-anon/"},
	} {
		v, ok := got[name]
		if !ok || v.IOThread != want.iothread || !strings.Contains(v.Device, want.device) {
			t.Errorf("%s: got %+v, want %+v", name, v, want)
		}
		if refused := errors.Is(v.Refusal, vm.ErrRefused); refused != (want.iothread != "") {
			t.Errorf("%s: refusal %v", name, v.Refusal)
		}
	}
	if v := got["old"]; !strings.HasPrefix(v.Node, "#block") {
		t.Errorf("got %+v", v)
	}
	id := open(t, q).Identity()
	if id.UUID != "0f0e0d0c-0b0a-4000-8000-000102030405" || id.Name != "web" || id.Version.Major < 7 {
		t.Errorf("identity %+v", id)
	}
}

// A volume whose node has no name of its own can be attached.
func TestAttachToDevices(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{
		Machine: "q35", NoServer: true,
		Args:  []string{"-drive", "driver=null-co,if=none,id=old,size=67108864", "-device", "virtio-blk-pci,drive=old", "-object", "iothread,id=io1"},
		Disks: []vmtest.Disk{{Device: "virtio-blk-pci,id=d0,iothread=io1"}},
	})
	v := open(t, q)
	k := vmtest.StartNBDKit(t, "memory", "64M")
	list, err := v.Volumes(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	var nodes []string
	for _, w := range list {
		nodes = append(nodes, w.Node)
	}
	taps := attach(t, v, request(k.Socket, nodes...))
	if err := v.CheckBypass(deadline(t), taps); err != nil {
		t.Fatal(err)
	}
	found, err := v.ListTaps(deadline(t), group)
	if err != nil || len(found) != len(taps) {
		t.Fatalf("found %+v, %v", found, err)
	}
	for _, f := range found {
		if f.Volume != nodes[0] && f.Volume != nodes[1] {
			t.Errorf("volume of %+v", f)
		}
	}
	detach(t, v, taps)
	clean(t, v)
	// A reader of the iothread's volume would abort QEMU later.
	if err := v.StartReader(deadline(t), vm.ReaderConfig{Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	_, err = v.Export(deadline(t), vm.Export{Group: group, Node: "disk0"})
	var hint interface{ Hint() string }
	if !errors.Is(err, vm.ErrRefused) || !errors.As(err, &hint) || hint.Hint() == "" {
		t.Fatalf("got %v", err)
	}
}

// Jobs that come and go put nodes in and take them out again; no volume is missed.
func TestVolumesWhileJobsComeAndGo(t *testing.T) {
	for name, cfg := range map[string]vmtest.Config{
		"devices":    {Machine: "pc", NoServer: true, Disks: []vmtest.Disk{{Device: "virtio-blk-pci,id=d0"}, {Device: "virtio-blk-pci,id=d1"}, {Node: "target"}}},
		"no devices": {Disks: []vmtest.Disk{{}, {}, {Node: "target"}}},
	} {
		t.Run(name, func(t *testing.T) {
			q := vmtest.Start(t, cfg)
			v := open(t, q)
			var stop atomic.Bool
			jobs := make(chan error, 1)
			go func() {
				for i := 0; !stop.Load(); i++ {
					id := fmt.Sprintf("job%d", i)
					if err := q.Do("blockdev-backup", map[string]any{"device": "disk0", "target": "target", "job-id": id, "sync": "none"}, nil); err != nil {
						continue // the one before is not over
					}
					if err := q.Do("block-job-cancel", map[string]any{"device": id}, nil); err != nil {
						jobs <- err
						return
					}
				}
				jobs <- nil
			}()
			for range 50 {
				list, err := v.Volumes(deadline(t))
				if err != nil {
					t.Error(err)
					break
				}
				var names []string
				for _, w := range list {
					names = append(names, w.Name)
				}
				if !slices.Contains(names, "disk0") || !slices.Contains(names, "disk1") {
					t.Errorf("got %v", names)
					break
				}
			}
			stop.Store(true)
			if err := <-jobs; err != nil {
				t.Fatal(err)
			}
		})
	}
}
