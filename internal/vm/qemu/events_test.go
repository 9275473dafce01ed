package qemu_test

import (
	"context"
	"errors"
	"testing"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

func TestEvents(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{})
	v := open(t, q)
	events := v.Subscribe()
	defer events.Close()
	for _, c := range []struct {
		cmd  string
		want vm.EventKind
	}{{"stop", vm.EventStop}, {"cont", vm.EventResume}, {"system_reset", vm.EventReset}, {"quit", vm.EventShutdown}} {
		second(t, q, c.cmd, nil)
		if e, err := events.Next(deadline(t)); err != nil || e.Kind != c.want || e.Lost != 0 || e.Time.IsZero() {
			t.Fatalf("%s: got %+v, %v", c.cmd, e, err)
		}
	}
	// On its way out QEMU also takes the guest's export away.
	if e, err := events.Next(deadline(t)); err != nil || e.Kind != vm.EventDevices {
		t.Fatalf("got %+v, %v", e, err)
	}
	if _, err := events.Next(deadline(t)); !errors.Is(err, vm.ErrGone) {
		t.Fatalf("got %v", err)
	}
	<-v.Done()
}

// Whoever does not listen hears how much he missed, and what came last.
func TestEventsAreLostLoudly(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{})
	v := open(t, q)
	events := v.Subscribe()
	defer events.Close()
	const pairs = 200
	for range pairs {
		second(t, q, "stop", nil)
		second(t, q, "cont", nil)
	}
	if _, err := v.RunState(deadline(t)); err != nil { // the events are here by now
		t.Fatal(err)
	}
	var heard, lost uint64
	var last vm.EventKind
	for heard+lost < 2*pairs {
		e, err := events.Next(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		heard, lost, last = heard+1, lost+e.Lost, e.Kind
	}
	if lost == 0 || heard+lost != 2*pairs || last != vm.EventResume {
		t.Fatalf("heard %d, lost %d, last %s", heard, lost, last)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := events.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}
