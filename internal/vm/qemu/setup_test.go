package qemu_test

import (
	"context"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/qemu"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

const group = vm.GroupTag("g1")

// deadline is only there to end a test that has gone wrong.
func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func open(t *testing.T, q *vmtest.QEMU) *qemu.VM {
	t.Helper()
	v, err := qemu.Open(deadline(t), q.QMP, qemu.Config{HandshakeTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// request asks for taps on nodes at one server.
func request(socket string, nodes ...string) vm.Attach {
	a := vm.Attach{Group: group}
	for _, n := range nodes {
		a.Volumes = append(a.Volumes, vm.AttachVolume{Node: n, Socket: socket, Export: "token-" + n})
	}
	return a
}

func attach(t *testing.T, v *qemu.VM, a vm.Attach) []vm.Tap {
	t.Helper()
	taps, err := v.Attach(deadline(t), a)
	if err != nil {
		t.Fatal(err)
	}
	return taps
}

func detach(t *testing.T, v *qemu.VM, taps []vm.Tap) {
	t.Helper()
	if err := v.Detach(deadline(t), taps); err != nil {
		t.Fatal(err)
	}
}

// clean fails the test when QEMU has any node or job of ours left.
func clean(t *testing.T, v *qemu.VM) {
	t.Helper()
	taps, err := v.ListTaps(deadline(t), "")
	if err != nil || len(taps) > 0 {
		t.Fatalf("left over: %v, %v", taps, err)
	}
}

// await reads events until one of a kind comes.
func await(t *testing.T, events vm.Events, kind vm.EventKind) vm.Event {
	t.Helper()
	for {
		e, err := events.Next(deadline(t))
		if err != nil {
			t.Fatalf("wait for %s: %v", kind, err)
		}
		if e.Kind == kind {
			return e
		}
	}
}

// second connects to the monitor that the harness keeps, as another program.
func second(t *testing.T, q *vmtest.QEMU, cmd string, args map[string]any) {
	t.Helper()
	q.Must(cmd, args, nil)
}
