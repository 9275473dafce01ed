package failover

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rephub/rephub/internal/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is where a test's VMs run, and its mounts.
type site struct {
	t   *testing.T
	dir string

	mu      sync.Mutex
	mounts  map[string]bool
	fail    map[string]error // what actions fail with
	actions []string
}

func newSite(t *testing.T) *site {
	dir, err := os.MkdirTemp("", "f")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: dir, mounts: map[string]bool{}, fail: map[string]error{}}
	t.Cleanup(func() {
		for _, r := range s.open().List() {
			for _, v := range r.VMs {
				_ = kill(context.Background(), v.QMP())
			}
		}
		os.RemoveAll(dir)
	})
	return s
}

// open is a manager as a new process has it.
func (s *site) open() *Failovers {
	return New(Config{Dir: s.dir, Logger: slog.New(slog.DiscardHandler), Actions: s})
}

// did notes an action, and fails if it is to.
func (s *site) did(what string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.actions = append(s.actions, what)
	return s.fail[what]
}

func (s *site) Unmount(_ context.Context, id string) error {
	err := s.did("unmount")
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		delete(s.mounts, id)
	}
	return err
}

func (s *site) Fence(_ context.Context, r *Record, save func() error, _ func(string)) error {
	r.Held, r.Fenced, r.Seq = []string{"a"}, true, 9
	return errors.Join(save(), s.did("fence"))
}

func (s *site) Release(_ context.Context, r *Record) error {
	if len(r.Held) != 1 || !r.Fenced {
		s.t.Errorf("released without what the fence noted: %+v", r)
	}
	return s.did("release")
}

func (s *site) Adopt(context.Context, *Record) error { return s.did("adopt") }

// qemu is a VM without anything but its monitor, with some more arguments.
func qemu(name string, order int, args ...string) VM {
	return VM{Name: name, Order: order, Argv: func(p Place) ([]string, []string, error) {
		if p.Volumes["v"] != "uri" && !p.Local {
			return nil, nil, errors.New("the volumes are not those of the mount")
		}
		argv := []string{"qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-qmp", "unix:" + filepath.Join(p.Dir, "qmp") + ",server=on,wait=off"}
		return append(argv, args...), []string{"a note"}, nil
	}}
}

func (s *site) spec(id string, vms ...VM) Spec {
	return Spec{Kind: Test, ID: id, Group: "shop", Seq: 7, Time: time.Unix(1000, 0).UTC(), VMs: vms, Mount: func(context.Context, *Record) (map[string]string, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.mounts[id] = true
		return map[string]string{"v": "uri"}, nil
	}}
}

// nothing is left of all tests.
func (s *site) nothing(t *Failovers) {
	s.t.Helper()
	left, _ := filepath.Glob(filepath.Join(s.dir, "*"))
	if len(left) > 0 || len(s.mounts) > 0 || len(t.List()) > 0 {
		s.t.Errorf("left are files %v, mounts %v, tests %+v", left, s.mounts, t.List())
	}
}

func steps(string) {}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func alive(t *testing.T, r Record) (n int) {
	t.Helper()
	for _, v := range r.VMs {
		ok, err := v.Alive()
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			n++
		}
	}
	return n
}

// VMs start by their order, run on when the process that started them has gone, and are ended by another one.
func TestVMsOutliveWhoStartedThem(t *testing.T) {
	s := newSite(t)
	first := s.open()
	var said []string
	r, err := first.Start(deadline(t), s.spec("one", qemu("c", 3), qemu("a", 1), qemu("b", 1)), func(step string) { said = append(said, step) })
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"mounting", "starting a, b", "starting c"}; !slices.Equal(said, want) {
		t.Errorf("steps %q", said)
	}
	if r.Phase != Running || r.RTO <= 0 || r.VMs[0].Started < r.VMs[1].Started || alive(t, r) != 3 || r.VMs[2].Notes[0] != "a note" {
		t.Errorf("%+v", r)
	}
	second := s.open()
	if err := second.Restore(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if l := second.List(); len(l) != 1 || l[0].RTO != r.RTO || alive(t, l[0]) != 3 {
		t.Fatalf("after a restart %+v", l)
	}
	if err := second.Stop(deadline(t), "one"); err != nil {
		t.Fatal(err)
	}
	if alive(t, r) != 0 {
		t.Error("VMs still run")
	}
	s.nothing(second)
	if err := second.Stop(deadline(t), "one"); !errors.Is(err, ErrNotFound) {
		t.Errorf("stopped twice: %v", err)
	}
}

// When one VM does not start, none of them stays.
func TestOneThatDoesNotStart(t *testing.T) {
	for name, c := range map[string]struct {
		vm   VM
		want string
	}{
		"QEMU refuses":         {qemu("b", 2, "-device", "nonsense"), "VM b does not start: .*nonsense"},
		"the guest is not run": {qemu("b", 2, "-S"), "VM b does not answer: .*it is prelaunch"},
		"a monitor hangs":      {hangs("b"), "VM b does not answer"},
		"no such program": {VM{Name: "b", Argv: func(Place) ([]string, []string, error) {
			return []string{"/opt/kvm-of-old"}, nil, nil
		}}, "/opt/kvm-of-old, which is not on this host"},
		"no command line": {VM{Name: "b", Argv: func(Place) ([]string, []string, error) { return nil, nil, errors.New("unknown") }}, "VM b: unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			tests := s.open()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err := tests.Start(ctx, s.spec("one", qemu("a", 1), c.vm), steps)
			if err == nil || !matches(c.want, err.Error()) {
				t.Errorf("%v, not %s", err, c.want)
			}
			s.nothing(tests)
		})
	}
}

// hangs is a VM whose monitor accepts and never answers.
func hangs(name string) VM {
	return VM{Name: name, Order: 2, Argv: func(p Place) ([]string, []string, error) {
		monitor := "unix:" + filepath.Join(p.Dir, "qmp") + ","
		return []string{"sh", "-c", "sleep 1000 & wait", monitor}, nil, nil
	}}
}

func matches(pattern, text string) bool {
	for part := range strings.SplitSeq(pattern, ".*") {
		_, after, ok := strings.Cut(text, part)
		if !ok {
			return false
		}
		text = after
	}
	return true
}

// What was begun and not finished when the process was killed is undone by the next one, wherever that was.
func TestInterrupted(t *testing.T) {
	for _, phase := range []Phase{Starting, Stopping} {
		s := newSite(t)
		tests := s.open()
		r, err := tests.Start(deadline(t), s.spec("one", qemu("a", 1), qemu("b", 1)), steps)
		if err != nil {
			t.Fatal(err)
		}
		r.Phase = phase
		if err := tests.save(r); err != nil {
			t.Fatal(err)
		}
		if err := kill(deadline(t), r.VMs[1].QMP()); err != nil { // one had not started yet, or was ended already
			t.Fatal(err)
		}
		next := s.open()
		if err := next.Restore(deadline(t)); err != nil {
			t.Fatal(err)
		}
		if alive(t, r) != 0 {
			t.Errorf("%s: VMs still run", phase)
		}
		s.nothing(next)
	}
}

// A mount that does not end now is tried again, by a stop or by the next process.
func TestUnmountFails(t *testing.T) {
	s := newSite(t)
	tests := s.open()
	if _, err := tests.Start(deadline(t), s.spec("one", qemu("a", 1)), steps); err != nil {
		t.Fatal(err)
	}
	hangs := errors.New("the disk hangs")
	s.fail["unmount"] = hangs
	if err := tests.Stop(deadline(t), "one"); !errors.Is(err, hangs) {
		t.Fatalf("%v", err)
	}
	if l := tests.List(); len(l) != 1 || l[0].Phase != Stopping {
		t.Fatalf("%+v", l)
	}
	next := s.open()
	if err := next.Restore(deadline(t)); !errors.Is(err, hangs) {
		t.Errorf("%v", err)
	}
	delete(s.fail, "unmount")
	if err := next.Stop(deadline(t), "one"); err != nil {
		t.Fatal(err)
	}
	s.nothing(next)
}

// While a test is being started nobody else stops it; who asked for it can.
func TestStopWhileItStarts(t *testing.T) {
	s := newSite(t)
	tests := s.open()
	slow := qemu("a", 1)
	slow.Delay = time.Hour
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	reached := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := tests.Start(ctx, s.spec("one", slow, qemu("b", 2)), func(step string) {
			if step == "starting a" {
				close(reached)
			}
		})
		done <- err
	}()
	<-reached
	if err := tests.Stop(ctx, "one"); !errors.Is(err, ErrBusy) {
		t.Errorf("%v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	s.nothing(tests)
}

// A damaged file is named, and keeps nobody else from being found.
func TestDamagedRecord(t *testing.T) {
	s := newSite(t)
	tests := s.open()
	r, err := tests.Start(deadline(t), s.spec("one", qemu("a", 1)), steps)
	if err != nil {
		t.Fatal(err)
	}
	for id, text := range map[string]string{"bad": "{", "odd": ""} {
		if err := os.Mkdir(tests.Dir(id), 0o700); err != nil {
			t.Fatal(err)
		}
		if id == "odd" {
			err = recordKind.Write(vfs.OS(), filepath.Join(tests.Dir(id), "test"), r)
		} else {
			err = os.WriteFile(filepath.Join(tests.Dir(id), "test"), []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	next := s.open()
	err = next.Restore(deadline(t))
	if err == nil || !strings.Contains(err.Error(), "bad/test") || !strings.Contains(err.Error(), "odd/test") {
		t.Errorf("%v", err)
	}
	if l := next.List(); len(l) != 1 || l[0].ID != "one" {
		t.Errorf("%+v", l)
	}
	if err := next.Stop(deadline(t), "one"); err != nil {
		t.Error(err)
	}
}

// VMs that have no room are not begun with.
func TestMemory(t *testing.T) {
	s := newSite(t)
	tests := s.open()
	half := qemu("a", 1)
	half.Memory = 1 << 61
	if _, err := tests.Start(deadline(t), s.spec("one", half, half), steps); !errors.Is(err, ErrMemory) {
		t.Errorf("%v", err)
	}
	s.nothing(tests)
	if n, err := available("MemTotal: 9 kB\nMemAvailable:   12 kB\n"); n != 12<<10 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := available("MemTotal: 9 kB\n"); err == nil {
		t.Error("nothing is said, and it was understood")
	}
}
