package conform

import (
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// dirty gives the offsets and lengths that a bitmap names, read over NBD.
func dirty(t *testing.T, uri string, name vm.BitmapName) [][2]int64 {
	t.Helper()
	out, err := exec.Command("nbdinfo", "--json", "--map=qemu:dirty-bitmap:"+string(name), uri).Output()
	if err != nil {
		t.Fatalf("nbdinfo: %v", err)
	}
	var extents []struct{ Offset, Length, Type int64 }
	if err := json.Unmarshal(out, &extents); err != nil {
		t.Fatal(err)
	}
	var ranges [][2]int64
	for _, e := range extents {
		if e.Type == 1 {
			ranges = append(ranges, [2]int64{e.Offset, e.Length})
		}
	}
	return ranges
}

// startReader uses the server that the VM has, or has the VM listen where its
// manager says.
func startReader(t *testing.T, g Guest, v vm.VM) {
	t.Helper()
	c := vm.ReaderConfig{Dir: filepath.Join(t.TempDir(), "not there")}
	if q, ok := g.(*vmtest.QEMU); ok {
		c.Address = q.NBDServer
	}
	if err := v.StartReader(deadline(t), c); err != nil {
		t.Fatal(err)
	}
}

// The whole way of a bitmap: added with the tap, switched in one transaction,
// read over NBD, removed.
func bitmaps(t *testing.T, w Way) {
	g, v := w.start(t, 2)
	disk := g.Nodes()
	k := vmtest.StartNBDKit(t, "memory", "64M")
	first, next := vm.NewBitmapName(group, 1), vm.NewBitmapName(group, 2)
	a := request(k.Socket, disk...)
	a.Bitmap = first
	taps := attach(t, v, a)
	g.Write(disk[0], "write 1M 4k")
	g.Write(disk[1], "write 2M 128k")
	var s vm.BitmapSwitch
	for _, n := range disk {
		s.Add = append(s.Add, vm.BitmapRef{Node: n, Name: next})
		s.Disable = append(s.Disable, vm.BitmapRef{Node: n, Name: first})
	}
	// One wrong name and nothing of it happens.
	bad := s
	bad.Disable = append(slices.Clone(s.Disable), vm.BitmapRef{Node: disk[0], Name: vm.NewBitmapName(group, 9)})
	if err := v.SwitchBitmaps(deadline(t), bad); err == nil {
		t.Fatal("a switch with an unknown bitmap succeeded")
	}
	bytes := func(n string, name vm.BitmapName) int64 {
		t.Helper()
		list, err := v.ListBitmaps(deadline(t), group)
		i := slices.IndexFunc(list, func(b vm.Bitmap) bool { return b.Node == n && b.Name == name })
		if err != nil || i < 0 {
			t.Fatalf("no bitmap %s of %s in %+v, %v", name, n, list, err)
		}
		return list[i].Dirty
	}
	if bytes(disk[0], first) != 64<<10 || bytes(disk[1], first) != 128<<10 {
		t.Fatal("the bitmaps do not say what was written")
	}
	if err := v.SwitchBitmaps(deadline(t), s); err != nil {
		t.Fatal(err)
	}
	g.Write(disk[0], "write 8M 4k")
	startReader(t, g, v)
	if _, err := v.Export(deadline(t), vm.Export{Group: group, Node: disk[0], Bitmaps: []vm.BitmapName{next}}); err == nil {
		t.Fatal("a bitmap that still records was exported")
	}
	x, err := v.Export(deadline(t), vm.Export{Group: group, Node: disk[0], Bitmaps: []vm.BitmapName{first}})
	if err != nil {
		t.Fatal(err)
	}
	if got := dirty(t, x.URI(), first); len(got) != 1 || got[0] != [2]int64{1 << 20, 64 << 10} {
		t.Fatalf("dirty %v", got)
	}
	refs := []vm.BitmapRef{{Node: disk[0], Name: first}, {Node: disk[1], Name: first}}
	if err := v.RemoveBitmaps(deadline(t), refs); !errors.Is(err, vm.ErrBusy) {
		t.Fatalf("remove a bitmap in use: %v", err)
	}
	if err := v.Unexport(deadline(t), x.ID); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time they are gone
		if err := v.RemoveBitmaps(deadline(t), refs); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := v.ListBitmaps(deadline(t), ""); err != nil || len(list) != 2 || bytes(disk[0], next) != 64<<10 {
		t.Fatalf("got %+v, %v", list, err)
	}
	whole(t, v, taps)
	detach(t, v, taps)
}

// A bitmap of qcow2 is still there after an instance ended without order, and says
// that it means nothing.
func persistentBitmap(t *testing.T, w Way) {
	g := w.Start(t, vmtest.Disk{Format: "qcow2"})
	v := w.Open(t, g)
	list, err := v.Volumes(deadline(t))
	if err != nil || len(list) != 1 || !list[0].PersistentBitmaps || list[0].Format != "qcow2" || list[0].Size != 64<<20 {
		t.Fatalf("got %+v, %v", list, err)
	}
	ref := vm.BitmapRef{Node: g.Nodes()[0], Name: vm.NewBitmapName(group, 1)}
	if err := v.SwitchBitmaps(deadline(t), vm.BitmapSwitch{Add: []vm.BitmapRef{ref}, Persistent: []string{ref.Node}}); err != nil {
		t.Fatal(err)
	}
	if list, err := v.ListBitmaps(deadline(t), group); err != nil || len(list) != 1 || !list[0].Persistent || !list[0].Recording {
		t.Fatalf("got %+v, %v", list, err)
	}
	before := v.Identity()
	g.Restart()
	<-v.Done()
	v = w.Open(t, g)
	if list, err := v.ListBitmaps(deadline(t), group); err != nil || len(list) > 0 { // it never was saved
		t.Fatalf("got %+v, %v", list, err)
	}
	if after := v.Identity(); after.UUID != before.UUID || after.Name != before.Name || after.Instance == before.Instance {
		t.Fatalf("identity %+v, then %+v", before, after)
	}
}

func reader(t *testing.T, w Way) {
	g, v := w.start(t, 1)
	disk := g.Nodes()[0]
	if _, err := v.Export(deadline(t), vm.Export{Group: group, Node: disk}); err == nil {
		t.Fatal("exported without a server")
	}
	startReader(t, g, v)
	x, err := v.Export(deadline(t), vm.Export{Group: group, Node: disk, ID: "abc"})
	if err != nil {
		t.Fatal(err)
	}
	g.Write(disk, "write -P 7 0 4k")
	if out, err := exec.Command("qemu-io", "-r", "-f", "raw", "-c", "read -P 7 0 4k", x.URI()).CombinedOutput(); err != nil {
		t.Fatalf("read: %v: %s", err, out)
	}
	// We are killed and come back: the server and the export are still there.
	v = w.reopen(t, g, v)
	startReader(t, g, v)
	found, err := v.ListExports(deadline(t), group)
	if err != nil || len(found) != 1 || found[0] != x {
		t.Fatalf("found %+v, %v, want %+v", found, err, x)
	}
	for range 2 {
		if err := v.Unexport(deadline(t), x.ID); err != nil {
			t.Fatal(err)
		}
	}
	if found, err = v.ListExports(deadline(t), ""); err != nil || len(found) != 0 {
		t.Fatalf("found %+v, %v", found, err)
	}
}

func bypass(t *testing.T, w Way) {
	g, v := w.start(t, 2)
	disk := g.Nodes()
	k := vmtest.StartNBDKit(t, "memory", "64M")
	taps := attach(t, v, request(k.Socket, disk[0]))
	startReader(t, g, v)
	// A reader may come and go.
	x, err := v.Export(deadline(t), vm.Export{Group: group, Node: disk[0]})
	if err != nil {
		t.Fatal(err)
	}
	whole(t, v, taps)
	if err := v.Unexport(deadline(t), x.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Export(deadline(t), vm.Export{Group: group, Node: disk[0], Writable: true}); !errors.Is(err, vm.ErrBusy) {
		t.Fatalf("a writable export around the tap: %v", err)
	}
	// An export by the name of the tap's filter goes through the tap.
	g.Must("block-export-add", map[string]any{"type": "nbd", "id": "above", "node-name": taps[0].Filter, "name": "above", "writable": true}, nil)
	whole(t, v, taps)
	g.Must("block-export-add", map[string]any{"type": "nbd", "id": "around", "node-name": disk[0], "name": "around", "writable": true}, nil)
	err = v.CheckBypass(deadline(t), taps)
	var around *vm.BypassError
	if !errors.As(err, &around) || !strings.Contains(around.User, "around") || around.Tap != taps[0] {
		t.Fatalf("got %v", err)
	}
	events := v.Subscribe()
	defer events.Close()
	g.Must("block-export-del", map[string]any{"id": "around"}, nil)
	if e := await(t, events, vm.EventDevices); e.Device != "around" {
		t.Fatalf("got %+v", e)
	}
	// What it wrote last, nobody knows.
	if err := v.CheckBypass(deadline(t), taps); !errors.As(err, &around) {
		t.Fatalf("got %v", err)
	}
	detach(t, v, taps)
}
