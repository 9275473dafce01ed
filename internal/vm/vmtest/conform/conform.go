// Package conform holds the tests that every way to a VM must pass, so that a VM
// is protected in the same way whoever carries our commands to it.
package conform

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// Guest is a VM under test, reached by a way of the test's own.
type Guest interface {
	// Nodes are the disks' node names.
	Nodes() []string
	// Image is the path of a disk's image.
	Image(node string) string
	// Write runs qemu-io commands that write as the guest would.
	Write(node string, commands ...string)
	// Must runs a command of QMP.
	Must(cmd string, args, result any)
	Kill()
	Freeze()
	Thaw()
	// Restart kills QEMU and starts another one with the same disks.
	Restart()
}

// Way is a way to a VM. Start ends the VM with the test, Open the connection.
type Way struct {
	Start func(t *testing.T, disks ...vmtest.Disk) Guest
	Open  func(t *testing.T, g Guest) vm.VM
}

// Run runs all tests, several at once.
func Run(t *testing.T, w Way) {
	for name, test := range map[string]func(*testing.T, Way){
		"WritesReachBoth":      writesReachBoth,
		"TapLossIsSeen":        tapLossIsSeen,
		"TapLossIsSeenAtOnce":  tapLossIsSeenAtOnce,
		"HalfDoneAttach":       halfDoneAttach,
		"AttachIsAllOrNothing": attachIsAllOrNothing,
		"Bitmaps":              bitmaps,
		"PersistentBitmap":     persistentBitmap,
		"Reader":               reader,
		"Bypass":               bypass,
		"UnseenJob":            unseenJob,
		"Events":               events,
		"Frozen":               frozen,
		"Gone":                 gone,
		"ForgottenPause":       forgottenPause,
		"TapOverTCP":           tapOverTCP,
		"Definition":           definition,
		"Power":                power,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, w)
		})
	}
}

const group = vm.GroupTag("g1")

// start starts a VM with n disks and opens it.
func (w Way) start(t *testing.T, n int) (Guest, vm.VM) {
	t.Helper()
	g := w.Start(t, make([]vmtest.Disk, n)...)
	return g, w.Open(t, g)
}

// reopen ends a connection as a restart of ours would, and opens another.
func (w Way) reopen(t *testing.T, g Guest, v vm.VM) vm.VM {
	t.Helper()
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	return w.Open(t, g)
}

// deadline is only there to end a test that has gone wrong.
func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// request asks for taps on nodes at one server.
func request(socket string, nodes ...string) vm.Attach {
	a := vm.Attach{Group: group}
	for _, n := range nodes {
		a.Volumes = append(a.Volumes, vm.AttachVolume{Node: n, Socket: socket, Export: "token-" + n})
	}
	return a
}

func attach(t *testing.T, v vm.VM, a vm.Attach) []vm.Tap {
	t.Helper()
	taps, err := v.Attach(deadline(t), a)
	if err != nil {
		t.Fatal(err)
	}
	return taps
}

// detach also looks that nothing of ours is left.
func detach(t *testing.T, v vm.VM, taps []vm.Tap) {
	t.Helper()
	if err := v.Detach(deadline(t), taps); err != nil {
		t.Fatal(err)
	}
	clean(t, v)
}

func clean(t *testing.T, v vm.VM) {
	t.Helper()
	taps, err := v.ListTaps(deadline(t), "")
	if err != nil || len(taps) > 0 {
		t.Fatalf("left over: %v, %v", taps, err)
	}
}

func whole(t *testing.T, v vm.VM, taps []vm.Tap) {
	t.Helper()
	if _, err := v.CheckFence(deadline(t), taps); err != nil {
		t.Fatal(err)
	}
	if err := v.CheckBypass(deadline(t), taps); err != nil {
		t.Fatal(err)
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
