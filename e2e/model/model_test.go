package model

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

const group = "vm"

// world is a VM whose writes are all noted, and the hub that protects it.
type world struct {
	t    *testing.T
	ctx  context.Context
	hub  *rig.Hub
	qemu *vmtest.QEMU
	h    *History
	r    *Replay
	load *Load
	rnd  *rand.Rand
}

// sizes of the volumes; the last one ends between two of everything.
var sizes = []int64{8 << 20, 12 << 20, 5<<20 + 3*Sector}

// newWorld starts a VM, writes a little to it while nobody looks, protects it,
// and writes on while the initial sync runs.
//
// What the hub reads there reaches it late by so much.
func newWorld(t *testing.T, lateBy time.Duration, args ...string) *world {
	t.Helper()
	// One test may not take for ever, whatever hangs.
	ctx, cancel := context.WithTimeout(context.Background(), rig.Budget(0)+2*time.Minute)
	t.Cleanup(cancel)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := &world{t: t, ctx: ctx, hub: rig.NewHub(t), h: NewHistory(sizes...), rnd: rand.New(rand.NewPCG(seed, 0))}
	w.r = w.h.Replay()
	var disks []vmtest.Disk
	for _, n := range sizes {
		disks = append(disks, vmtest.Disk{Size: n})
	}
	w.qemu = vmtest.Start(t, vmtest.Config{Disks: disks})
	var uris []string
	for _, node := range w.qemu.Nodes() {
		uris = append(uris, w.qemu.GuestURI(node))
	}
	var err error
	if w.load, err = NewLoad(ctx, w.h, seed, 2, uris...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.load.Close() })
	w.must(w.load.RunUnrecorded(ctx, 100))
	reader := w.qemu.NBDServer
	if lateBy > 0 {
		reader = late(t, reader, lateBy)
	}
	w.hub.Must("vm", "add", group, "--qmp", strings.TrimPrefix(w.qemu.QMP, "unix:"), "--nbd-server", reader)
	w.hub.Must(append([]string{"protect", group, "--group", group}, args...)...)
	w.h.Recorded(w.hub.Group(group).Epoch)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// while writes at random until f returns.
func (w *world) while(f func()) {
	w.t.Helper()
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- w.load.Run(w.ctx, 0, stop) }()
	defer func() {
		close(stop)
		if err := <-ended; err != nil {
			w.t.Errorf("the VM met an I/O error: %v", err)
		}
	}()
	f()
}

func (w *world) write(n int64) {
	w.t.Helper()
	w.must(w.load.Run(w.ctx, n, nil))
}

// order reads the journal up to a point.
func (w *world) order(upTo uint64) {
	w.t.Helper()
	w.must(Order(w.hub, w.r, group, upTo))
}

// settle waits until all that was written is a point, and checks that nothing
// is missing in the journal.
func (w *world) settle() uint64 {
	w.t.Helper()
	last := w.hub.WaitDurable(group)
	w.order(last)
	w.must(w.r.Complete())
	return last
}

// points chooses n seqs of the ranges offered, ends included.
func (w *world) points(g api.GroupStatus, n int) []uint64 {
	w.t.Helper()
	if len(g.Ranges) == 0 {
		w.t.Fatalf("no points are offered: %+v", g)
	}
	seqs := []uint64{g.FirstSeq, g.DurableSeq}
	for range n {
		x := g.Ranges[w.rnd.IntN(len(g.Ranges))]
		seqs = append(seqs, x[0]+w.rnd.Uint64N(x[1]-x[0]+1))
	}
	slices.Sort(seqs)
	return slices.Compact(seqs)
}

// mounted is a point with what it must hold.
type mounted struct {
	api.Mount
	state *State
}

// mount opens a point; false if it has just become too old.
func (w *world) mount(seq uint64, s *State) (mounted, bool) {
	w.t.Helper()
	at := fmt.Sprintf("seq:%d", seq)
	out, err := w.hub.CLI("mount", group, "--at", at, "-o", "json")
	if err != nil && w.hub.Group(group).FirstSeq > seq {
		return mounted{}, false
	}
	w.must(err)
	m := mounted{state: s}
	w.must(json.Unmarshal([]byte(out), &m.Mount))
	if m.Seq != seq {
		w.t.Errorf("asked for %s, got seq %d", at, m.Seq)
	}
	return m, true
}

// equal compares a mounted point with the model.
func (w *world) equal(m mounted) {
	w.t.Helper()
	var uris []string
	for _, node := range w.qemu.Nodes() {
		for _, v := range m.Volumes {
			if v.Name == group+"/"+node {
				uris = append(uris, v.URI)
			}
		}
	}
	if err := m.state.Compare(w.ctx, uris...); err != nil {
		w.t.Fatalf("seq %d: %v", m.Seq, err)
	}
}

// check mounts some points of those offered, compares each with the model, and
// returns them.
func (w *world) check(n int) (checked []uint64) {
	w.t.Helper()
	g := w.hub.Group(group)
	w.order(g.DurableSeq)
	seqs := w.points(g, n)
	s := w.r.State()
	for _, seq := range seqs {
		w.must(s.To(seq))
		m, ok := w.mount(seq, s)
		if !ok {
			continue
		}
		w.equal(m)
		w.hub.Must("unmount", m.ID)
		checked = append(checked, seq)
	}
	if len(checked) == 0 {
		w.t.Fatalf("none of %v could be mounted", seqs)
	}
	return checked
}

// source compares the VM's own disks with the newest state.
func (w *world) source() {
	w.t.Helper()
	s := w.r.State()
	w.must(s.To(w.r.Last()))
	var uris []string
	for _, node := range w.qemu.Nodes() {
		uris = append(uris, w.qemu.GuestURI(node))
	}
	if err := s.Compare(w.ctx, uris...); err != nil {
		w.t.Fatalf("the VM's own disks: %v", err)
	}
}

func (w *world) protected() {
	w.t.Helper()
	w.hub.WaitState(group, api.StateProtected)
}

func TestAnyPointEqualsTheHistory(t *testing.T) {
	w := newWorld(t, 0)
	w.while(w.protected) // during the initial sync
	w.write(1500)
	w.settle()
	w.source()
	seqs := w.check(25)

	// The same points, and a mount that stays, after the hub was ended in order
	// and after it was killed, both with writes before, meanwhile and after.
	seq := seqs[len(seqs)/2]
	s := w.r.State()
	w.must(s.To(seq))
	stays, _ := w.mount(seq, s)
	for _, end := range []func(){w.hub.Stop, w.hub.Kill} {
		w.while(end)
		w.write(300)
		w.while(func() { w.hub.Start(); w.protected() })
		w.equal(stays)
		w.settle()
		w.check(10)
	}
	w.source()
}

func TestPointsAfterTheBaseHasMoved(t *testing.T) {
	w := newWorld(t, 0, "--history", "5s")
	w.while(w.protected)
	w.write(1000)
	w.settle()
	first := w.hub.Group(group).FirstSeq
	w.hub.Eventually("the oldest point moves", time.Minute, func() error {
		w.write(20)
		w.settle() // reads the order before its segment can go
		if now := w.hub.Group(group).FirstSeq; now <= first {
			return fmt.Errorf("it is still %d", now)
		}
		return nil
	})
	first = w.check(15)[0]
	if _, err := w.hub.CLI("mount", group, "--at", fmt.Sprintf("seq:%d", first-1)); err == nil {
		t.Errorf("seq %d, before the oldest point %d, was mounted", first-1, first)
	}
	w.hub.Kill()
	w.hub.Start()
	w.protected()
	w.check(5)
	w.source()
}

func TestOldPointsWhileAResyncRuns(t *testing.T) {
	w := newWorld(t, 10*time.Millisecond)
	w.while(w.protected)
	w.write(500)
	before := w.settle()
	g := w.hub.Group(group)
	var old []mounted
	for _, seq := range w.points(g, 2) {
		s := w.r.State()
		w.must(s.To(seq))
		m, _ := w.mount(seq, s)
		old = append(old, m)
	}
	w.hub.Must("pause", group)
	w.must(w.load.RunUnrecorded(w.ctx, 300))
	w.hub.Must("resume", group)
	w.h.Recorded(w.hub.Group(group).Epoch)

	whole := 0 // comparisons that began and ended while the resync ran
	w.while(func() {
		for w.hub.Group(group).State == api.StateSyncing {
			for _, m := range old {
				w.equal(m)
			}
			fresh := old[w.rnd.IntN(len(old))]
			again, _ := w.mount(fresh.Seq, fresh.state)
			w.equal(again)
			w.hub.Must("unmount", again.ID)
			if g := w.hub.Group(group); g.State == api.StateSyncing {
				whole++
				copies := slices.ContainsFunc(g.Volumes, func(v api.VolumeStatus) bool { return v.Sync != nil })
				if copies && g.DurableSeq > before {
					t.Fatalf("point %d is offered while the sync that began after %d runs", g.DurableSeq, before)
				}
			}
		}
		w.protected()
	})
	if whole == 0 {
		t.Error("nothing was compared while the resync ran: make it slower")
	}
	w.write(300)
	w.settle()
	if g := w.hub.Group(group); len(g.Ranges) < 2 || g.Ranges[0][0] > before || g.Epoch == 0 {
		t.Errorf("the points before the resync are gone: %v", g.Ranges)
	}
	for _, m := range old {
		w.equal(m)
	}
	w.check(15)
	w.source()
}

// Whatever was promised before the hub was killed is there, and the same.
func TestPromisesOutliveRandomKills(t *testing.T) {
	w := newWorld(t, 0)
	w.while(w.protected)
	deadline := time.Now().Add(rig.Budget(12 * time.Second))
	for round := 0; round < 3 || time.Now().Before(deadline); round++ {
		var promised uint64
		w.while(func() {
			moment := w.h.Len() + w.rnd.IntN(800)
			w.hub.Eventually("some more requests", time.Minute, func() error {
				promised = max(promised, w.hub.Group(group).DurableSeq)
				if n := w.h.Len(); n < moment {
					return fmt.Errorf("%d of %d", n, moment)
				}
				return nil
			})
			w.hub.Kill()
		})
		w.hub.Start()
		if now := w.hub.Group(group).DurableSeq; now < promised {
			t.Fatalf("round %d: seq %d was promised, and the newest point is %d", round, promised, now)
		}
		w.check(3)
		w.protected()
		w.settle()
		w.check(3)
	}
	w.source()
}
