package conform

import (
	"errors"
	"testing"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

func events(t *testing.T, w Way) {
	g, v := w.start(t, 1)
	events := v.Subscribe()
	defer events.Close()
	g.Must("stop", nil, nil)
	g.Must("cont", nil, nil)
	e := await(t, events, vm.EventResume)
	if e.Time.IsZero() {
		t.Fatalf("got %+v", e)
	}
	g.Must("stop", nil, nil)
	await(t, events, vm.EventStop)
	g.Must("system_reset", nil, nil)
	await(t, events, vm.EventReset)
	g.Must("blockdev-add", map[string]any{"driver": "null-co", "node-name": "target", "size": 64 << 20}, nil)
	g.Must("blockdev-backup", map[string]any{"device": g.Nodes()[0], "target": "target", "job-id": "saving", "sync": "none"}, nil)
	if e := await(t, events, vm.EventDevices); e.Device != "saving" {
		t.Fatalf("got %+v", e)
	}
	g.Must("block-job-cancel", map[string]any{"device": "saving"}, nil)
	g.Must("migrate-set-capabilities", map[string]any{"capabilities": []any{map[string]any{"capability": "events", "state": true}}}, nil)
	g.Must("migrate", map[string]any{"uri": "unix:/nowhere/at/all"}, nil)
	if e := await(t, events, vm.EventMigration); e.State != "setup" {
		t.Fatalf("got %+v", e)
	}
	for e := await(t, events, vm.EventMigration); e.State != "failed"; {
		e = await(t, events, vm.EventMigration)
	}
}

// A job that came and went between two looks may have written.
func unseenJob(t *testing.T, w Way) {
	g, v := w.start(t, 1)
	k := vmtest.StartNBDKit(t, "memory", "64M")
	taps := attach(t, v, request(k.Socket, g.Nodes()[0]))
	whole(t, v, taps)
	events := v.Subscribe()
	defer events.Close()
	g.Must("blockdev-create", map[string]any{"job-id": "made", "options": map[string]any{"driver": "file", "filename": "", "size": 0}}, nil)
	for {
		_, err := v.CheckFence(deadline(t), taps)
		if errors.As(err, new(*vm.BypassError)) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		await(t, events, vm.EventDevices) // its beginning, then its end
	}
	if err := v.Around(); !errors.As(err, new(*vm.BypassError)) {
		t.Fatalf("got %v", err)
	}
	detach(t, v, taps)
}

func gone(t *testing.T, w Way) {
	g, v := w.start(t, 1)
	k := vmtest.StartNBDKit(t, "memory", "64M")
	events := v.Subscribe()
	taps := attach(t, v, request(k.Socket, g.Nodes()[0]))
	before := v.Identity()
	g.Kill()
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
	g.Restart()
	v = w.Open(t, g)
	if after := v.Identity(); after.Instance == before.Instance || after.Instance == "" {
		t.Fatalf("the same instance after a restart: %s", after.Instance)
	}
	same := v.Identity()
	if v = w.reopen(t, g, v); v.Identity() != same {
		t.Fatalf("%+v, then %+v", same, v.Identity())
	}
	clean(t, v)
}

// An attach paused the VM and was killed before it let the VM go on. A user's own
// pause is respected.
func forgottenPause(t *testing.T, w Way) {
	g, v := w.start(t, 1)
	state := func(want vm.RunState) {
		t.Helper()
		if s, err := v.RunState(deadline(t)); err != nil || s != want {
			t.Fatalf("run state %s, %v, want %s", s, err, want)
		}
	}
	g.Must("cont", nil, nil)
	state(vm.StateRunning)
	g.Must("stop", nil, nil)
	v = w.reopen(t, g, v)
	state(vm.StatePaused)
	g.Must("cont", nil, nil)
	g.Must("object-add", map[string]any{"qom-type": "throttle-group", "id": "rephub-paused"}, nil)
	g.Must("stop", nil, nil)
	v = w.reopen(t, g, v)
	state(vm.StateRunning)
	g.Must("stop", nil, nil)
	v = w.reopen(t, g, v)
	state(vm.StatePaused)
}
