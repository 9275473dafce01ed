package qemu_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// unseen waits until the VM knows of somebody who came and went unseen.
func unseen(t *testing.T, v vm.VM, taps []vm.Tap, want string) {
	t.Helper()
	for {
		_, err := v.CheckFence(deadline(t), taps)
		var bypass *vm.BypassError
		if errors.As(err, &bypass) {
			if !strings.Contains(bypass.User, want) || bypass.Tap != (vm.Tap{}) || v.CheckBypass(deadline(t), taps) == nil {
				t.Fatalf("got %v, want one about %s", err, want)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if t.Context().Err() != nil || deadline(t).Err() != nil {
			t.Fatal("nobody was noticed")
		}
	}
}

// Who is looked at and goes through the tap, or is on another volume, may go; who
// was never looked at may have written around it.
func TestWhoGoesUnseen(t *testing.T) {
	for name, c := range map[string]struct {
		come, leave func(q *vmtest.QEMU, id string)
	}{
		"export": {
			come: func(q *vmtest.QEMU, id string) {
				q.Must("block-export-add", map[string]any{"type": "nbd", "id": id, "node-name": "other", "name": id, "writable": true}, nil)
			},
			leave: func(q *vmtest.QEMU, id string) { q.Must("block-export-del", map[string]any{"id": id}, nil) },
		},
		"device": {
			come: func(q *vmtest.QEMU, id string) {
				q.Must("device_add", map[string]any{"driver": "scsi-hd", "id": id, "drive": "other", "share-rw": true}, nil)
			},
			leave: func(q *vmtest.QEMU, id string) { q.Must("device_del", map[string]any{"id": id}, nil) },
		},
		"job": {
			come: func(q *vmtest.QEMU, id string) {
				q.Must("blockdev-mirror", map[string]any{"job-id": id, "device": "other", "target": "target", "sync": "none"}, nil)
			},
			leave: func(q *vmtest.QEMU, id string) { q.Must("block-job-cancel", map[string]any{"device": id}, nil) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			q := vmtest.Start(t, vmtest.Config{Machine: "q35", Disks: []vmtest.Disk{{Device: "scsi-hd,id=d0,share-rw=on"}, {Node: "other"}},
				Args: []string{"-device", "virtio-scsi-pci,id=s0", "-blockdev", "driver=null-co,node-name=target,size=67108864"}})
			v := open(t, q)
			k := vmtest.StartNBDKit(t, "memory", "64M")
			taps := attach(t, v, request(k.Socket, "disk0"))
			events := v.Subscribe()
			defer events.Close()
			c.come(q, "seen")
			if err := v.CheckBypass(deadline(t), taps); err != nil {
				t.Fatal(err)
			}
			c.leave(q, "seen")
			for e := await(t, events, vm.EventDevices); !strings.Contains(e.Device, "seen"); {
				e = await(t, events, vm.EventDevices)
			}
			if err := v.CheckBypass(deadline(t), taps); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the name is used again
				c.come(q, "seen")
				c.leave(q, "seen")
			}
			unseen(t, v, taps, "seen")
		})
	}
}

// A job that is over and still listed has let go of what it wrote to.
func TestJobThatIsOverIsUnseen(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{})
	v := open(t, q)
	k := vmtest.StartNBDKit(t, "memory", "64M")
	taps := attach(t, v, request(k.Socket, "disk0"))
	q.Must("blockdev-create", map[string]any{"job-id": "made", "options": map[string]any{"driver": "file", "filename": q.Dir + "/new", "size": 4096}}, nil)
	unseen(t, v, taps, "job made")
}
