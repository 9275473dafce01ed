package libvirt_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/discover"
	"github.com/rephub/rephub/internal/vm/libvirt"
	"github.com/rephub/rephub/internal/vm/qemu"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

const group = vm.GroupTag("g1")

func attach(t *testing.T, v vm.VM, nodes ...string) []vm.Tap {
	t.Helper()
	k := vmtest.StartNBDKit(t, "memory", "64M")
	a := vm.Attach{Group: group}
	for _, n := range nodes {
		a.Volumes = append(a.Volumes, vm.AttachVolume{Node: n, Socket: k.Socket, Export: "token-" + n})
	}
	taps, err := v.Attach(deadline(t), a)
	if err != nil {
		t.Fatal(err)
	}
	return taps
}

// await waits for a list that is as it should be.
func await(t *testing.T, lists <-chan []discover.Found, what string, good func([]discover.Found) bool) {
	t.Helper()
	for {
		select {
		case l := <-lists:
			if good(l) {
				return
			}
			t.Logf("%s: not yet: %+v", what, l)
		case <-deadline(t).Done():
			t.Fatalf("%s was not reported", what)
		}
	}
}

// watch gives what discovery reports until the test ends.
func watch(t *testing.T, l *vmtest.Libvirtd) <-chan []discover.Found {
	ctx, cancel := context.WithCancel(t.Context())
	lists, ended := make(chan []discover.Found), make(chan error, 1)
	go func() {
		ended <- libvirt.Source(l.URI)(ctx, func(l []discover.Found) {
			select {
			case lists <- l:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the source ended with %v", err)
		}
	})
	return lists
}

// The whole life of a domain and its daemon, as discovery tells it and as a tap
// lives through it: the daemon is killed and comes back, and no tap notices.
func daemonRestart(t *testing.T, l *vmtest.Libvirtd) {
	d := l.Define(t, "web", vmtest.Disk{})
	lists := watch(t, l)
	address := libvirt.Address(l.URI, "web")
	state := func(want string) func([]discover.Found) bool {
		return func(found []discover.Found) bool {
			return slices.Contains(found, discover.Found{Name: "web", QMP: address, State: want})
		}
	}
	await(t, lists, "paused", state("paused"))
	if err := l.Lib().DomainResume(d.Dom()); err != nil {
		t.Fatal(err)
	}
	await(t, lists, "running", state("running"))

	v := open(t, l, "web")
	taps := attach(t, v, d.Nodes()...)
	events := v.Subscribe()
	l.Restart()
	<-v.Done()
	if _, err := v.CheckFence(deadline(t), taps); !errors.Is(err, vm.ErrLost) || errors.Is(err, vm.ErrGone) || !errors.Is(v.Err(), vm.ErrLost) {
		t.Fatalf("got %v and %v", err, v.Err())
	}
	for err := error(nil); !errors.Is(err, vm.ErrLost); {
		if _, err = events.Next(deadline(t)); err != nil && !errors.Is(err, vm.ErrLost) {
			t.Fatal(err)
		}
	}
	await(t, lists, "lost", func(found []discover.Found) bool {
		last := found[len(found)-1]
		return state("")(found) && last.QMP == "" && last.Reason != ""
	})
	await(t, lists, "back", state("running"))
	again := open(t, l, "web")
	if again.Identity() != v.Identity() {
		t.Fatalf("%+v, then %+v", v.Identity(), again.Identity())
	}
	d.Write(d.Nodes()[0], "write -P 1 0 4k")
	if _, err := again.CheckFence(deadline(t), taps); err != nil {
		t.Fatal(err)
	}
	if err := again.Detach(deadline(t), taps); err != nil {
		t.Fatal(err)
	}

	if err := l.Lib().DomainDestroy(d.Dom()); err != nil {
		t.Fatal(err)
	}
	await(t, lists, "shut off", state("shut off"))
	<-again.Done()
	if _, err := libvirt.Open(deadline(t), l.URI, "web", qemu.Config{}); !errors.Is(err, vm.ErrGone) || errors.Is(err, vm.ErrLost) {
		t.Fatalf("got %v", err)
	}
	if err := l.Lib().DomainUndefine(d.Dom()); err != nil {
		t.Fatal(err)
	}
	await(t, lists, "none", func(found []discover.Found) bool {
		return !slices.ContainsFunc(found, func(f discover.Found) bool { return f.QMP == address })
	})
}

// A daemon that hangs costs callers their contexts and nothing else.
func daemonHangs(t *testing.T, l *vmtest.Libvirtd) {
	d := l.Define(t, "hangs", vmtest.Disk{})
	v := open(t, l, "hangs")
	taps := attach(t, v, d.Nodes()...)
	l.Freeze()
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		_, err := v.CheckFence(ctx, taps)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		if _, err := libvirt.Open(ctx, l.URI, "hangs", qemu.Config{}); err == nil || errors.Is(err, vm.ErrGone) {
			t.Fatalf("got %v", err)
		}
		cancel()
	}
	other := make(chan struct{})
	go func() {
		defer close(other)
		v.Close()
	}()
	select {
	case <-other:
	case <-deadline(t).Done():
		t.Fatal("Close waits for a daemon that hangs")
	}
	l.Thaw()
	v = open(t, l, "hangs")
	if _, err := v.CheckFence(deadline(t), taps); err != nil {
		t.Fatal(err)
	}
	if err := v.Detach(deadline(t), taps); err != nil {
		t.Fatal(err)
	}
}

func TestNobodyThere(t *testing.T) {
	uri := "qemu:///session?socket=" + filepath.Join(t.TempDir(), "none")
	_, err := libvirt.Open(deadline(t), uri, "web", qemu.Config{})
	var hint interface{ Hint() string }
	if !errors.Is(err, vm.ErrLost) || errors.Is(err, vm.ErrGone) || !errors.As(err, &hint) {
		t.Fatalf("got %v", err)
	}
	if _, err := libvirt.Open(deadline(t), "qemu+ssh://host/system", "web", qemu.Config{}); err == nil {
		t.Fatal("a daemon elsewhere was accepted")
	}
}
