package qemu_test

import (
	"errors"
	"testing"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// A VM goes to another host with its taps on: here no fence is good from the stop
// on, and there it is the same VM and another instance.
func TestMigrationAway(t *testing.T) {
	cfg := vmtest.Config{
		Machine: "pc", NoServer: true, Args: []string{"-m", "32", "-uuid", "0f0e0d0c-0b0a-4000-8000-000102030405"},
		Disks: []vmtest.Disk{{Device: "virtio-blk-pci,id=d0"}},
	}
	here := vmtest.Start(t, cfg)
	way := "unix:" + here.Dir + "/migration"
	cfg.Dir, cfg.Name = here.Dir, "there"
	cfg.Args = append([]string{"-incoming", way}, cfg.Args...)
	there := vmtest.Start(t, cfg)
	v := open(t, here)
	second(t, here, "cont", nil)
	k := vmtest.StartNBDKit(t, "memory", "64M")
	taps := attach(t, v, request(k.Socket, "disk0"))
	events := v.Subscribe()
	defer events.Close()
	second(t, here, "migrate-set-capabilities", map[string]any{"capabilities": []any{map[string]any{"capability": "events", "state": true}}})
	second(t, here, "migrate", map[string]any{"uri": way})
	if e := await(t, events, vm.EventMigration); e.State != "setup" {
		t.Fatalf("got %+v", e)
	}
	await(t, events, vm.EventStop)
	var lost *vm.NotWholeError
	if _, err := v.CheckFence(deadline(t), taps); !errors.As(err, &lost) || lost.Reason != vm.ReasonMigrated {
		t.Fatalf("got %v", err)
	}
	for e := await(t, events, vm.EventMigration); e.State != "completed"; {
		e = await(t, events, vm.EventMigration)
	}
	w := open(t, there)
	if a, b := v.Identity(), w.Identity(); a.UUID == "" || a.UUID != b.UUID || a.Instance == b.Instance {
		t.Fatalf("%+v here, %+v there", a, b)
	}
	if found, err := w.ListTaps(deadline(t), ""); err != nil || len(found) > 0 {
		t.Fatalf("taps went with it: %v, %v", found, err)
	}
	detach(t, v, taps)
	clean(t, v)
}
