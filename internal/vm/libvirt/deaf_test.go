package libvirt_test

import (
	"errors"
	"testing"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/libvirt"
	"github.com/rephub/rephub/internal/vm/vmtest"
	"github.com/rephub/rephub/qmp"
)

// A daemon that answers and tells nothing is noticed, and every connection to it
// ends, so that it can begin anew.
func deaf(t *testing.T, l *vmtest.Libvirtd) {
	l.Define(t, "deaf", vmtest.Disk{})
	l.Define(t, "other", vmtest.Disk{})
	ctx := deadline(t)
	m, err := libvirt.OpenMonitor(ctx, l.URI, "deaf", func(qmp.Event) {})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	other := open(t, l, "other")
	if err := m.Settle(ctx); err != nil {
		t.Fatal(err)
	}
	if !libvirt.Deafen(m) {
		t.Fatal("the daemon knows no listener")
	}
	if err := m.Settle(ctx); !errors.Is(err, vm.ErrLost) || errors.Is(err, vm.ErrGone) {
		t.Fatalf("got %v", err)
	}
	select {
	case <-other.Done():
		if !errors.Is(other.Err(), vm.ErrLost) {
			t.Errorf("the other connection ended with %v", other.Err())
		}
	case <-ctx.Done():
		t.Fatal("the other connection goes on")
	}
	again, err := libvirt.OpenMonitor(ctx, l.URI, "deaf", func(qmp.Event) {})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := again.Settle(ctx); err != nil {
		t.Fatal(err)
	}
}
