package protect

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// writeAround writes to the node below the volume's as another export of QEMU's
// would, that comes and goes between two looks. No bitmap sees it either.
func writeAround(t *testing.T, q *vmtest.QEMU, commands ...string) {
	t.Helper()
	type node struct {
		Name   string `json:"node-name"`
		Driver string `json:"drv"`
	}
	var nodes []node
	q.Must("query-named-block-nodes", nil, &nodes)
	i := slices.IndexFunc(nodes, func(n node) bool { return n.Driver == "file" })
	q.Must("block-export-add", map[string]any{"type": "nbd", "id": "around", "node-name": nodes[i].Name, "name": "around", "writable": true}, nil)
	vmtest.IO(t, q.GuestURI("around"), commands...)
	q.Must("block-export-del", map[string]any{"id": "around", "mode": "hard"}, nil)
}

// A writer around the tap that no look has seen is noticed when it goes: its writes
// are found by a compare.
func TestUnseenWriterAroundTheTap(t *testing.T) {
	s := newSite(t)
	s.cfg.BypassEvery = time.Hour
	q := vmtest.Start(t, vmtest.Config{})
	g := s.start(q)
	g.reach(StateProtected)
	epoch := g.Status().Epoch
	writeAround(t, q, "write -P 7 5M 64k")
	g.until("a new epoch", func(st Status) bool { return st.Epoch > epoch })
	g.reach(StateProtected)
	g.equal(q)
	if !q.Alive() {
		t.Fatal("QEMU died")
	}
}

// A hub that ends before it could do anything about it leaves the knowledge to the next one.
func TestUnseenWriterAsTheHubEnds(t *testing.T) {
	s := newSite(t)
	s.cfg.BypassEvery = time.Hour
	q := vmtest.Start(t, vmtest.Config{})
	var dumb atomic.Pointer[dumbVM]
	s.wrap = func(v vm.VM) vm.VM {
		d := &dumbVM{VM: v}
		dumb.Store(d)
		return d
	}
	g := s.start(q)
	g.reach(StateProtected)
	dumb.Load().silent.Store(true)
	writeAround(t, q, "write -P 8 6M 64k")
	eventually(t, "the event is here", func() bool { return dumb.Load().Around() != nil })
	g.end()
	g = s.start(q)
	g.reach(StateProtected)
	g.equal(q)
}

// dumbVM answers no fence while it is silent.
type dumbVM struct {
	vm.VM
	silent atomic.Bool
}

func (d *dumbVM) CheckFence(ctx context.Context, taps []vm.Tap) (vm.RunState, error) {
	if d.silent.Load() {
		return "", errors.New("no answer")
	}
	return d.VM.CheckFence(ctx, taps)
}

// A hub that is told to end after it has noted a writer around the tap, and before it
// has stopped recording, leaves a ring that looks whole: the next one compares.
func TestWriterNotedAsTheHubEnds(t *testing.T) {
	s := newSite(t)
	s.cfg.BypassEvery = time.Hour
	q := vmtest.Start(t, vmtest.Config{})
	var g *running
	s.wrap = func(v vm.VM) vm.VM {
		looks := 0
		return &lookedAtVM{v, func(err error) error {
			if err != nil {
				if looks++; looks == 2 { // it broke, and that is being noted
					g.stop()
				}
			}
			return err
		}}
	}
	g = s.start(q)
	g.reach(StateProtected)
	writeAround(t, q, "write -P 9 7M 64k")
	<-g.done
	g.end()
	if !g.memo.volume(1).Over {
		t.Fatal("the hub did not end at the place in question")
	}
	s.wrap = nil
	g = s.start(q)
	g.reach(StateProtected)
	g.equal(q)
}

// A writer that goes while the attachment is being given up for another reason is
// noted, too: the next conversation with the VM would not tell.
func TestUnseenWriterWhileAllIsGivenUp(t *testing.T) {
	s := newSite(t)
	s.cfg.BypassEvery = time.Hour
	q := vmtest.Start(t, vmtest.Config{})
	wrote := false
	s.wrap = func(v vm.VM) vm.VM {
		looks := 0
		return &lookedAtVM{v, func(err error) error {
			if looks++; looks == 2 && !wrote { // the first look was the attachment's, when it broke
				wrote = true
				writeAround(t, q, "write -P 10 8M 64k")
				eventually(t, "the event is here", func() bool { return v.Around() != nil })
			}
			return err
		}}
	}
	g := s.start(q)
	g.reach(StateProtected)
	epoch := g.Status().Epoch
	if _, err := s.link.Void(t.Context(), g.spec.ID.String()); err != nil {
		t.Fatal(err)
	}
	g.until("a new epoch", func(st Status) bool { return st.Epoch > epoch })
	g.reach(StateProtected)
	if !wrote {
		t.Fatal("nobody wrote")
	}
	g.equal(q)
}

// lookedAtVM has something done whenever the group asks who has gone.
type lookedAtVM struct {
	vm.VM
	look func(error) error
}

func (l *lookedAtVM) Around() error { return l.look(l.VM.Around()) }
