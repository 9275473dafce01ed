package qemu_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

func TestReaderServer(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{NoServer: true})
	v := open(t, q)
	dir := t.TempDir()
	if _, err := v.Export(deadline(t), vm.Export{Group: group, Node: "disk0"}); err == nil {
		t.Fatal("exported without a server")
	}
	if err := v.StartReader(deadline(t), vm.ReaderConfig{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	x, err := v.Export(deadline(t), vm.Export{Group: group, Node: "disk0", ID: "abc", Writable: true})
	if err != nil {
		t.Fatal(err)
	}
	vmtest.IO(t, x.URI(), "write -P 7 0 4k", "read -P 7 0 4k")
	// We are killed and come back: the server and the export are still there.
	v.Close()
	v = open(t, q)
	if err := v.StartReader(deadline(t), vm.ReaderConfig{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	found, err := v.ListExports(deadline(t), group)
	if err != nil || len(found) != 1 || found[0] != x {
		t.Fatalf("found %+v, %v, want %+v", found, err, x)
	}
	// A client that stays.
	client := exec.Command("qemu-io", "-f", "raw", x.URI()) // prompts once it is connected
	in, err := client.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := v.Unexport(deadline(t), x.ID); !errors.Is(err, vm.ErrBusy) {
		t.Fatalf("got %v", err)
	}
	in.Close()
	if err := client.Wait(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := v.Unexport(deadline(t), x.ID); err != nil {
			t.Fatal(err)
		}
	}
	if found, err = v.ListExports(deadline(t), ""); err != nil || len(found) != 0 {
		t.Fatalf("found %+v, %v", found, err)
	}
	// Somewhere else than where it runs.
	err = v.StartReader(deadline(t), vm.ReaderConfig{Dir: t.TempDir()})
	var hint interface{ Hint() string }
	if !errors.Is(err, vm.ErrServerRunning) || !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "--nbd-server") {
		t.Fatalf("got %v", err)
	}
	if err := v.StartReader(deadline(t), vm.ReaderConfig{Dir: t.TempDir() + strings.Repeat("/long", 30)}); err == nil {
		t.Fatal("a socket path that is too long was accepted")
	}
	for _, bad := range []string{"unix:", "nowhere", "tcp:x"} {
		if err := v.StartReader(deadline(t), vm.ReaderConfig{Address: bad}); err == nil {
			t.Errorf("address %q was accepted", bad)
		}
	}
}

func TestBypassIsSeen(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{})
	v := open(t, q)
	k := vmtest.StartNBDKit(t, "memory", "64M")
	taps := attach(t, v, request(k.Socket, "disk0"))
	if err := v.StartReader(deadline(t), vm.ReaderConfig{Address: q.NBDServer}); err != nil {
		t.Fatal(err)
	}
	// A reader may come and go.
	x, err := v.Export(deadline(t), vm.Export{Group: group, Node: "disk0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.CheckBypass(deadline(t), taps); err != nil {
		t.Fatal(err)
	}
	if err := v.Unexport(deadline(t), x.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Export(deadline(t), vm.Export{Group: group, Node: "disk0", Writable: true}); !errors.Is(err, vm.ErrBusy) {
		t.Fatalf("a writable export around the tap: %v", err)
	}
	// An export by the name of the tap's filter goes through the tap.
	second(t, q, "block-export-add", map[string]any{"type": "nbd", "id": "above", "node-name": taps[0].Filter, "name": "above", "writable": true})
	if err := v.CheckBypass(deadline(t), taps); err != nil {
		t.Fatal(err)
	}
	second(t, q, "block-export-add", map[string]any{"type": "nbd", "id": "around", "node-name": "disk0", "name": "around", "writable": true})
	err = v.CheckBypass(deadline(t), taps)
	var bypass *vm.BypassError
	if !errors.As(err, &bypass) || !strings.Contains(bypass.User, "around") || bypass.Tap != taps[0] {
		t.Fatalf("got %v", err)
	}
	events := v.Subscribe()
	defer events.Close()
	second(t, q, "block-export-del", map[string]any{"id": "around"})
	if e := await(t, events, vm.EventDevices); e.Device != "around" {
		t.Fatalf("got %+v", e)
	}
	// What it wrote last, nobody knows.
	if err := v.CheckBypass(deadline(t), taps); !errors.As(err, &bypass) {
		t.Fatalf("got %v", err)
	}
	detach(t, v, taps)
}

// A persistent bitmap outlives an orderly end and nothing else.
func TestPersistentBitmap(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{Disks: []vmtest.Disk{{Format: "qcow2"}}})
	v := open(t, q)
	name := vm.NewBitmapName(group, 1)
	ref := vm.BitmapRef{Node: "disk0", Name: name}
	if err := v.SwitchBitmaps(deadline(t), vm.BitmapSwitch{Add: []vm.BitmapRef{ref}, Persistent: []string{ref.Node}, Granularity: 128 << 10}); err != nil {
		t.Fatal(err)
	}
	vmtest.IO(t, q.GuestURI("disk0"), "write 1M 4k")
	q.Quit()
	q.Restart()
	v = open(t, q)
	list, err := v.ListBitmaps(deadline(t), group)
	if err != nil || len(list) != 1 || !list[0].Persistent || !list[0].Recording || list[0].Inconsistent || list[0].Dirty != 128<<10 || list[0].Granularity != 128<<10 {
		t.Fatalf("after an orderly end: %+v, %v", list, err)
	}
	q.Kill()
	q.Restart()
	v = open(t, q)
	list, err = v.ListBitmaps(deadline(t), group)
	if err != nil || len(list) != 1 || !list[0].Inconsistent {
		t.Fatalf("after a crash: %+v, %v", list, err)
	}
	if err := v.RemoveBitmaps(deadline(t), []vm.BitmapRef{ref}); err != nil {
		t.Fatal(err)
	}
}

// QEMU runs as somebody who may not write where we say.
func TestReaderWhereQEMUMayNotWrite(t *testing.T) {
	cfg := vmtest.Config{NoServer: true}
	if os.Geteuid() == 0 {
		cfg.Args = []string{"-runas", "nobody"}
	}
	v := open(t, vmtest.Start(t, cfg))
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	err := v.StartReader(deadline(t), vm.ReaderConfig{Dir: dir})
	var hint interface{ Hint() string }
	if !errors.As(err, &hint) || !strings.Contains(hint.Hint(), dir) {
		t.Fatalf("got %v", err)
	}
}
