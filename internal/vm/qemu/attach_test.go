package qemu_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vm/qemu"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

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

func TestOpenFrozenQEMU(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{})
	q.Freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := qemu.Open(ctx, q.QMP, qemu.Config{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}
