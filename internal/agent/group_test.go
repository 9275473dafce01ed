package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/keeper"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/relay"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/discover"
	"github.com/rephub/rephub/journal"
)

// patience bounds what a test waits for.
const patience = 30 * time.Second

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not so: %s", what)
		}
		sleep(t.Context(), 5*time.Millisecond)
	}
}

// testAgent is an agent without a hub, keeper and VMs.
func testAgent(t *testing.T) *Agent {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	a := &Agent{cfg: Config{Logger: logger}, vms: newMachines(), budget: &budget{limit: minSpool}, data: &dataDir{path: t.TempDir()}}
	a.up = newUplink("", "", nil, relay.Config{}, logger)
	a.keeper = keeper.NewLink(keeper.ClientConfig{Dir: filepath.Join(a.data.path, "keeper"), Exe: filepath.Join(a.data.path, "none"), Logger: logger})
	t.Cleanup(func() { _ = a.keeper.Close() })
	a.groups = newGroups(t.Context(), a, filepath.Join(a.data.path, "groups"))
	must(t, os.MkdirAll(a.groups.dir, 0o700))
	return a
}

func testSpec(goal protect.Goal) host.Group {
	return host.Group{
		ID: testGroup, Name: "g", Goal: goal, VMs: []host.VM{{Name: "vm"}},
		Volumes: []protect.Volume{{ID: 1, VM: "vm", Disk: "disk", Size: 1 << 30}},
	}
}

// still is a group that nobody runs.
func still(t *testing.T, a *Agent, spec host.Group) *group {
	t.Helper()
	g := &group{a: a, dir: a.groups.path(spec.ID), logger: a.cfg.Logger}
	g.mu.spec, g.mu.changed = spec, make(chan struct{})
	must(t, os.MkdirAll(g.dir, 0o700))
	return g
}

// Between two lives, of which the first was stopped in order, there is something to say.
func TestStatusBetweenLives(t *testing.T) {
	g := still(t, testAgent(t), testSpec(protect.GoalStop))
	g.set(nil, nil, nil)
	if s := g.status(time.Now()); s.State != protect.StateDegraded || s.Reason == "" {
		t.Errorf("the status is %+v", s)
	}
}

// hubOf connects an agent to a hub that opens journals as told, and answers where
// they end if end is true.
func hubOf(t *testing.T, a *Agent, open func(relay.Hello) (relay.Journal, error), end *atomic.Bool) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	far, err := l.Accept()
	must(t, err)
	r, err := relay.NewReceiver(relay.ReceiverConfig{Open: func(_ context.Context, _ string, h relay.Hello) (relay.Journal, error) { return open(h) }})
	must(t, err)
	hub, err := relay.New(far, relay.Config{Receiver: r, Pipes: func(_ context.Context, _, _ string, conn net.Conn) error {
		if !end.Load() {
			return &relay.RemoteError{Code: "refused", Message: "the group is not yours"}
		}
		_, err := fmt.Fprintln(conn, "{}")
		return err
	}})
	must(t, err)
	up, err := relay.New(near, relay.Config{})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = hub.Run(ctx) })
	wg.Go(func() { _ = up.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	a.up.set(up, nil)
}

// A hub that refuses a spool because the group is another's, or none, does not end
// protection: that is what orders are for. Only one of an older epoch is given up.
func TestRefusedSpoolIsKept(t *testing.T) {
	a := testAgent(t)
	g := still(t, a, testSpec(protect.GoalProtect))
	s := testSpool(t, a.budget, 1, journal.Start{})
	var ours atomic.Bool
	var count atomic.Int32
	hubOf(t, a, func(relay.Hello) (relay.Journal, error) {
		count.Add(1)
		return nil, fmt.Errorf("%w: not now", relay.ErrRefused)
	}, &ours)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { ended <- g.ship(ctx, s) }()
	eventually(t, "it is tried again", func() bool {
		select {
		case err := <-ended:
			t.Fatalf("the spool is given up: %v", err)
		default:
		}
		return count.Load() > 2
	})
	ours.Store(true)
	if err := <-ended; !errors.Is(err, relay.ErrRefused) {
		t.Errorf("the hub has the group and does not want the spool: %v", err)
	}
}

// A group that is to be stopped needs no hub to let go of its taps, even if it has no spool.
func TestStopNeedsNoHub(t *testing.T) {
	a := testAgent(t)
	g := still(t, a, testSpec(protect.GoalProtect))
	var ours atomic.Bool
	hubOf(t, a, nil, &ours)
	if s, err := g.openSpool(t.Context()); err == nil {
		t.Fatalf("a spool was made though the hub has no such group: %v", s)
	}
	g.apply(testSpec(protect.GoalStop))
	s, err := g.openSpool(t.Context())
	must(t, err)
	must(t, s.close())
}

// A spool that is given up takes nothing with it that nobody would miss: records of
// a sync have no seqs.
func TestSpoolGivenUpIsDistrusted(t *testing.T) {
	noted := func(g *group) string {
		p, err := os.ReadFile(filepath.Join(g.dir, "protect.json"))
		must(t, err)
		return string(p)
	}
	a := testAgent(t)
	g := still(t, a, testSpec(protect.GoalStop))
	s, err := g.openSpool(t.Context())
	must(t, err)
	must(t, s.close())
	must(t, g.setAside(s))
	if m := noted(g); !strings.Contains(m, `"over":true`) {
		t.Errorf("set aside, noted is %s", m)
	}
	s, err = g.openSpool(t.Context())
	must(t, err)
	must(t, s.close())
	must(t, os.Remove(filepath.Join(g.dir, "protect.json")))
	files, err := filepath.Glob(filepath.Join(g.dir, spoolDir, "*"))
	must(t, err)
	for _, f := range files {
		if st, err := os.Stat(f); err == nil && !st.IsDir() {
			must(t, os.WriteFile(f, make([]byte, 8192), 0o600))
		}
	}
	if _, err := openSpool(vfs.OS(), filepath.Join(g.dir, spoolDir), testGroup, a.budget, a.cfg.Logger); !errors.Is(err, journal.ErrCorrupt) {
		t.Fatalf("the spool is not damaged: %v", err)
	}
	s, err = g.openSpool(t.Context())
	must(t, err)
	must(t, s.close())
	if m := noted(g); !strings.Contains(m, `"over":true`) {
		t.Errorf("damaged, noted is %s", m)
	}
}

// Orders that come side by side make one group, which does what is noted last.
func TestOrdersSideBySide(t *testing.T) {
	a := testAgent(t)
	goals := []protect.Goal{protect.GoalProtect, protect.GoalPause}
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() { must(t, a.groups.apply(testSpec(goals[i%2]))) })
	}
	wg.Wait()
	g, err := a.groups.find(testGroup)
	must(t, err)
	var r specRecord
	must(t, specKind.Read(vfs.OS(), filepath.Join(g.dir, specFile), &r))
	if r.Goal != g.spec().Goal {
		t.Errorf("noted is %q, meant is %q", r.Goal, g.spec().Goal)
	}
	a.groups.close()
}

// An agent that ends does not wait for a group that cannot be dropped now.
func TestCloseWithAGroupToDrop(t *testing.T) {
	a := testAgent(t)
	must(t, a.groups.apply(testSpec(protect.GoalProtect)))
	must(t, a.groups.forget([]journal.GroupID{a.groups.held().Groups[0].ID}))
	a.groups.close()
	var r specRecord
	must(t, specKind.Read(vfs.OS(), filepath.Join(a.groups.path(testGroup), specFile), &r))
	if !r.Dropped || r.Goal != protect.GoalStop {
		t.Errorf("noted is %+v", r)
	}
}

// A group whose file cannot be read keeps no other from going on; a hub that knows
// only a VM's name does not make the agent forget where it is.
func TestUnreadableGroup(t *testing.T) {
	a := testAgent(t)
	spec := testSpec(protect.GoalPause)
	spec.VMs[0].QMP = "/run/vm.sock"
	must(t, a.groups.write(specRecord{Group: spec}))
	must(t, os.MkdirAll(filepath.Join(a.groups.dir, "0", specFile), 0o700))
	must(t, a.groups.restore())
	defer a.groups.close()
	if _, err := a.groups.find(testGroup); err != nil {
		t.Error(err)
	}
	must(t, a.groups.apply(testSpec(protect.GoalPause)))
	var r specRecord
	must(t, specKind.Read(vfs.OS(), filepath.Join(a.groups.path(testGroup), specFile), &r))
	if r.VMs[0].QMP != "/run/vm.sock" {
		t.Errorf("the VM is at %+v", r.VMs)
	}
}

// otherVM is a VM that says who it is and nothing else.
type otherVM struct {
	vm.VM
	uuid string
}

func (o otherVM) Identity() vm.Identity { return vm.Identity{UUID: o.uuid} }
func (otherVM) Done() <-chan struct{}   { return nil }
func (otherVM) Close() error            { return nil }

// A name, or a socket, that another VM has got is not enough to be tapped as the one
// before. That one is still found where it was.
func TestAnotherVMOfTheName(t *testing.T) {
	a := testAgent(t)
	a.vms.pool = vm.NewPool(func(_ context.Context, qmp string) (vm.VM, error) { return otherVM{uuid: qmp}, nil })
	a.vms.set([]discover.Found{{Name: "vm", QMP: "new"}})
	for _, c := range []struct {
		was  host.VM
		want string // UUID
	}{
		{host.VM{Name: "vm", QMP: "old"}, "new"},
		{host.VM{Name: "vm", QMP: "old", UUID: "new"}, "new"},
		{host.VM{Name: "vm", QMP: "old", UUID: "old"}, "old"},
		{host.VM{Name: "vm", QMP: "old", UUID: "none"}, ""},
		{host.VM{Name: "vm", QMP: "new", UUID: "old"}, ""},
	} {
		spec := testSpec(protect.GoalProtect)
		spec.VMs[0] = c.was
		m, err := still(t, a, spec).openVM(t.Context(), "vm")
		if c.want == "" {
			var h interface{ Hint() string }
			if !errors.Is(err, vm.ErrGone) || !errors.As(err, &h) || h.Hint() == "" {
				t.Errorf("%+v: %v", c.was, err)
			}
			continue
		}
		must(t, err)
		if is := m.Identity().UUID; is != c.want {
			t.Errorf("%+v: it is %s", c.was, is)
		}
		must(t, m.Close())
	}
}
