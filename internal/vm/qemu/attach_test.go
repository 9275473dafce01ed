package qemu_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/qemu"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// tapFile is a tap server that keeps what it gets in a file.
func tapFile(t *testing.T) (k *vmtest.NBDKit, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "tap")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	return vmtest.StartNBDKit(t, "file", path), path
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWritesReachBoth(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{Disks: []vmtest.Disk{{}, {}}})
	v := open(t, q)
	k, path := tapFile(t)
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 1 0 64k")
	taps := attach(t, v, request(k.Socket, "disk0"))
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 2 1M 3584", "write -z 4M 1M", "write -P 3 32k 512")
	if _, err := v.CheckFence(deadline(t), taps); err != nil {
		t.Fatal(err)
	}
	detach(t, v, taps)
	clean(t, v)
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 4 8M 64k")
	got, image := read(t, path), read(t, q.Image("disk0"))
	if !bytes.Equal(got[64<<10:8<<20], image[64<<10:8<<20]) || !bytes.Equal(got[32<<10:32<<10+512], image[32<<10:32<<10+512]) {
		t.Error("the tap lacks a write made while it was on")
	}
	if got[0] != 0 || got[8<<20] != 0 {
		t.Error("the tap has a write made before or after")
	}
	detach(t, v, taps) // again: nothing to do
}

// The load would end if any write failed.
func TestAttachDetachUnderLoad(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{Disks: []vmtest.Disk{{}, {Delay: time.Millisecond}}})
	v := open(t, q)
	k := vmtest.StartNBDKit(t, "memory", "64M")
	loads := []*vmtest.Process{vmtest.Load(t, q.GuestURI("disk0"), 16), vmtest.Load(t, q.GuestURI("disk1"), 16)}
	for range 50 {
		taps := attach(t, v, request(k.Socket, "disk0", "disk1"))
		if state, err := v.CheckFence(deadline(t), taps); err != nil || state == "" {
			t.Fatalf("state %q, %v", state, err)
		}
		if err := v.CheckBypass(deadline(t), taps); err != nil {
			t.Fatal(err)
		}
		detach(t, v, taps)
	}
	clean(t, v)
	for _, l := range loads {
		if !l.Alive() {
			t.Fatal("a write failed")
		}
	}
	if !q.Alive() {
		t.Fatal("QEMU died")
	}
}

func TestTapLossIsSeen(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{Disks: []vmtest.Disk{{}, {}}})
	v := open(t, q)
	events := v.Subscribe()
	defer events.Close()
	k0, k1 := vmtest.StartNBDKit(t, "memory", "64M"), vmtest.StartNBDKit(t, "memory", "64M")
	a := request(k0.Socket, "disk0", "disk1")
	a.Volumes[1].Socket = k1.Socket
	taps := attach(t, v, a)
	k1.Kill()
	vmtest.IO(t, q.GuestURI("disk1"), "write -P 1 0 4096") // succeeds for the guest
	// The write is done, so the fence must know, event read or not.
	_, err := v.CheckFence(deadline(t), taps)
	var lost *vm.NotWholeError
	if !errors.As(err, &lost) || lost.Reason != vm.ReasonTapFailed || lost.Tap != taps[1] {
		t.Fatalf("got %v", err)
	}
	if e := await(t, events, vm.EventTapFailed); e.Tap != taps[1].Job || e.Failure == "" {
		t.Fatalf("got %+v", e)
	}
	if e := await(t, events, vm.EventTapEnded); e.Tap != taps[1].Job || e.Failure == "" {
		t.Fatalf("got %+v", e)
	}
	if _, err := v.CheckFence(deadline(t), taps[:1]); err != nil {
		t.Fatalf("the other tap: %v", err)
	}
	if err := v.CheckBypass(deadline(t), taps); !errors.As(err, &lost) || lost.Reason != vm.ReasonTapGone {
		t.Fatalf("got %v", err)
	}
	// Another connection, that has heard no event, sees that the job is gone.
	v.Close()
	v = open(t, q)
	if _, err := v.CheckFence(deadline(t), taps); !errors.As(err, &lost) || lost.Reason != vm.ReasonTapGone {
		t.Fatalf("got %v", err)
	}
	detach(t, v, taps)
	clean(t, v)
}

// What one step leaves behind when we are killed after it is found by name
// and taken away.
func TestHalfDoneAttachIsFound(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{})
	k := vmtest.StartNBDKit(t, "memory", "64M")
	v := open(t, q)
	taps := attach(t, v, request(k.Socket, "disk0"))
	v.Close() // all there
	v = open(t, q)
	found, err := v.ListTaps(deadline(t), group)
	if err != nil || len(found) != 1 || found[0] != taps[0] {
		t.Fatalf("found %+v, %v, want %+v", found, err, taps)
	}
	if other, err := v.ListTaps(deadline(t), "other"); err != nil || len(other) != 0 {
		t.Fatalf("another group's: %v, %v", other, err)
	}
	detach(t, v, found)
	clean(t, v)
	// Only the node, as after the first of two steps.
	second(t, q, "blockdev-add", map[string]any{"driver": "nbd", "node-name": taps[0].Node,
		"server": map[string]any{"type": "unix", "path": k.Socket}})
	if found, err = v.ListTaps(deadline(t), group); err != nil || len(found) != 1 {
		t.Fatalf("found %+v, %v", found, err)
	}
	detach(t, v, found)
	clean(t, v)
	// The job is cancelled already, the node still there.
	taps = attach(t, v, request(k.Socket, "disk0"))
	second(t, q, "block-job-cancel", map[string]any{"device": taps[0].Job})
	detach(t, v, taps)
	clean(t, v)
	// Somebody has paused the job.
	taps = attach(t, v, request(k.Socket, "disk0"))
	second(t, q, "block-job-pause", map[string]any{"device": taps[0].Job})
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 1 0 4096")
	if _, err := v.CheckFence(deadline(t), taps); err != nil {
		t.Fatalf("a paused job still copies: %v", err)
	}
	detach(t, v, taps)
	clean(t, v)
}

// The second volume cannot be attached, so the first is not either.
func TestAttachIsAllOrNothing(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{Disks: []vmtest.Disk{{}, {}, {}}})
	v := open(t, q)
	k := vmtest.StartNBDKit(t, "memory", "64M")
	small := vmtest.StartNBDKit(t, "memory", "1M")
	second(t, q, "blockdev-add", map[string]any{"driver": "null-co", "node-name": "target", "size": 64 << 20})
	second(t, q, "blockdev-mirror", map[string]any{"device": "disk2", "target": "target", "job-id": "other", "sync": "full"})
	load := vmtest.Load(t, q.GuestURI("disk0"), 16)
	bitmap := vm.NewBitmapName(group, 1)
	refuse := func(a vm.Attach, want error) {
		t.Helper()
		a.Bitmap = bitmap
		_, err := v.Attach(deadline(t), a)
		if err == nil || want != nil && !errors.Is(err, want) {
			t.Fatalf("got %v, want %v", err, want)
		}
		clean(t, v)
		if left, err := v.ListBitmaps(deadline(t), ""); err != nil || len(left) > 0 {
			t.Fatalf("bitmaps left over: %v, %v", left, err)
		}
	}
	a := request(k.Socket, "disk0", "disk1")
	a.Volumes[1].Socket = small.Socket // QEMU refuses a target of another size, after the first mirror runs
	refuse(a, nil)
	refuse(request(k.Socket, "disk0", "disk2"), vm.ErrBusy)
	refuse(request(k.Socket, "disk0", "nodisk"), vm.ErrNoVolume)
	a = request(k.Socket, "disk0", "disk1")
	a.Volumes[1].Socket = filepath.Join(t.TempDir(), "nobody")
	refuse(a, os.ErrNotExist)
	a.Volumes[1].Socket, a.PersistentBitmap = k.Socket, true
	refuse(a, nil)
	// A name that is taken does not take its owner down.
	a = request(k.Socket, "disk0")
	a.Volumes[0].ID = "same"
	taps := attach(t, v, a)
	a.Volumes[0].Node = "disk1"
	if _, err := v.Attach(deadline(t), a); !errors.Is(err, vm.ErrBusy) {
		t.Fatalf("got %v", err)
	}
	if _, err := v.CheckFence(deadline(t), taps); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Attach(deadline(t), request(k.Socket, "disk0")); !errors.Is(err, vm.ErrBusy) {
		t.Fatalf("a second tap on a volume: %v", err)
	}
	detach(t, v, taps)
	if !load.Alive() {
		t.Fatal("a write failed")
	}
}

// A server that accepts and says nothing is never shown to QEMU.
func TestSilentTapServer(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{})
	v := open(t, q)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "silent"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = v.Attach(deadline(t), request(l.Addr().String(), "disk0"))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	clean(t, v)
	// Another kind of server.
	_, err = v.Attach(deadline(t), request(q.QMP[len("unix:"):len(q.QMP)-len(".sock")]+".nbd-not", "disk0"))
	if !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
}

// A QEMU that hangs costs callers their contexts and nothing else.
func TestFrozenQEMU(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{})
	v := open(t, q)
	k := vmtest.StartNBDKit(t, "memory", "64M")
	taps := attach(t, v, request(k.Socket, "disk0"))
	q.Freeze()
	for range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		_, err := v.CheckFence(ctx, taps)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || errors.As(err, new(*vm.NotWholeError)) {
			t.Fatalf("got %v", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if err := v.Detach(ctx, taps); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	if _, err := qemu.Open(ctx, q.QMP, qemu.Config{}); err == nil {
		t.Fatal("opened a frozen QEMU")
	}
	q.Thaw()
	if _, err := v.CheckFence(deadline(t), taps); err != nil {
		t.Fatal(err)
	}
	detach(t, v, taps)
	clean(t, v)
}

func TestQEMUGone(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{})
	v := open(t, q)
	k := vmtest.StartNBDKit(t, "memory", "64M")
	events := v.Subscribe()
	taps := attach(t, v, request(k.Socket, "disk0"))
	before := v.Identity()
	q.Kill()
	<-v.Done()
	if _, err := v.CheckFence(deadline(t), taps); !errors.Is(err, vm.ErrGone) {
		t.Fatalf("got %v", err)
	}
	for {
		if _, err := events.Next(deadline(t)); err != nil {
			if !errors.Is(err, vm.ErrGone) {
				t.Fatalf("got %v", err)
			}
			break
		}
	}
	if !errors.Is(v.Err(), vm.ErrGone) {
		t.Fatalf("got %v", v.Err())
	}
	q.Restart()
	v = open(t, q)
	if after := v.Identity(); after.Instance == before.Instance {
		t.Fatalf("the same instance after a restart: %s", after.Instance)
	}
}
