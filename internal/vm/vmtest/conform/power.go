package conform

import (
	"testing"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// A guest is held, goes on, and is ended; each may be asked for twice.
func power(t *testing.T, w Way) {
	v := w.Open(t, w.Start(t, vmtest.Disk{}))
	for _, step := range []struct {
		what vm.PowerAction
		then vm.RunState
	}{
		{vm.PowerGoOn, vm.StateRunning},
		{vm.PowerHold, vm.StatePaused},
		{vm.PowerHold, vm.StatePaused},
		{vm.PowerGoOn, vm.StateRunning},
		{vm.PowerShutDown, vm.StateRunning}, // nobody in it listens
		{vm.PowerHold, vm.StatePaused},
		{vm.PowerGoOn, vm.StateRunning},
	} {
		if err := v.Power(deadline(t), step.what); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		if s, err := v.RunState(deadline(t)); err != nil || s != step.then {
			t.Fatalf("after %s it is %s, %v", step.what, s, err)
		}
	}
	if err := v.Power(deadline(t), "dance"); err == nil {
		t.Error("an unknown action is done")
	}
	if err := v.Power(deadline(t), vm.PowerEnd); err != nil {
		t.Fatal(err)
	}
	select {
	case <-v.Done():
	case <-deadline(t).Done():
		t.Error("it does not end")
	}
}
