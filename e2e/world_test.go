package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/vm/vmtest"
	"github.com/rephub/rephub/nbd"
)

// setup is what a fault test runs on.
type setup struct {
	name  string
	depth int           // writers at once
	slow  bool          // each write of the source takes 1 to 30 ms
	delay time.Duration // that it is
	disk  func(testing.TB, int64) *rig.Disk
	// Behind an agent:
	format string // of the images; raw when empty
	spool  int64  // bytes
}

const (
	sourceSize = drizzleAt + 192<<20 // bytes, of each of three
	floodAt    = 8 << 20             // behind the chains
	offlineAt  = 12 << 20            // behind the floods
	drizzleAt  = 16 << 20
	hubDisk    = 4 << 30
	// ringFull is more than the keeper holds for a hub that does not come.
	ringFull = 320 << 20
	// patience is how much longer than without a tap a write may take when a tap
	// is lost, and without an agent.
	patience = 500 * time.Millisecond
)

// world is a VM under load, protected, with all that can fail at hand.
type world struct {
	t    *testing.T
	rng  *rand.Rand
	s    setup
	disk *rig.Disk
	hub  *rig.Hub
	q    *vmtest.QEMU
	load *rig.Chains
	// control is the slowest write of the load without a tap, before; twin writes
	// to a VM without a tap all the time, and so knows how busy the machine is.
	control time.Duration
	twin    *rig.Chains
	slowest time.Duration // with one
	deaths  int           // of QEMU, by its own fault with a lost tap

	short  time.Duration // of the history, when it is too short for all of the test
	points int           // looked at
	memory memory

	behind // nothing when the hub is on the VM's own host
}

func newWorld(t *testing.T, s setup, rng *rand.Rand) *world {
	t.Helper()
	if s.slow {
		s.delay = time.Duration(1+rng.IntN(30)) * time.Millisecond
		t.Logf("each write of the source takes %s", s.delay)
	}
	w := &world{t: t, rng: rng, s: s}
	w.disk = s.disk(t, hubDisk)
	w.hub = rig.NewHubOn(t, w.disk)
	d := vmtest.Disk{Size: sourceSize, Delay: s.delay}
	w.q = vmtest.Start(t, vmtest.Config{Disks: []vmtest.Disk{d, d, d}})
	w.stopLoad()
	w.startLoad(make([]uint64, s.depth))
	w.measureControl()
	w.startTwin("")
	w.hub.Protect("vm", strings.TrimPrefix(w.q.QMP, "unix:"), w.q.NBDServer, w.keptHistory()...)
	return w
}

// keptHistory are arguments of protect.
func (w *world) keptHistory() []string {
	if rig.Budget(0) == 0 {
		return nil
	}
	w.short = 30 * time.Second // or the disk would be full in the end
	return []string{"--history", w.short.String()}
}

func (w *world) guests() []string {
	var list []string
	for _, node := range w.q.Nodes() {
		list = append(list, w.q.GuestURI(node))
	}
	return list
}

func (w *world) startLoad(from []uint64) {
	w.t.Helper()
	load, err := rig.ContinueChains(from, w.guests()...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.load = load
	w.load.Drizzle(drizzleAt, sourceSize-drizzleAt)
}

// stopLoad ends the load with the test.
func (w *world) stopLoad() {
	w.t.Cleanup(func() {
		if err := w.load.Stop(); err != nil && w.q.Alive() {
			w.t.Errorf("the load met an I/O error: %v", err)
		}
	})
}

// measureControl runs the same load, flood and all, without a tap.
func (w *world) measureControl() {
	w.t.Helper()
	w.writes(100)
	w.flood()
	w.writes(100)
	w.control = w.load.TakeSlowest()
}

// startTwin starts a VM that is not protected, with its image in dir.
func (w *world) startTwin(dir string) {
	w.t.Helper()
	q := vmtest.Start(w.t, vmtest.Config{Name: "twin", Dir: dir, Disks: []vmtest.Disk{{Delay: w.s.delay}}})
	var err error
	if w.twin, err = rig.ContinueChains(nil, q.GuestURI(q.Nodes()[0])); err != nil {
		w.t.Fatal(err)
	}
	w.twin.Drizzle(0, 64<<20)
	w.t.Cleanup(func() {
		if err := w.twin.Stop(); err != nil {
			w.t.Errorf("the VM without a tap: %v", err)
		}
	})
}

// writes waits until the load has done n more writes per writer.
func (w *world) writes(n int) {
	w.t.Helper()
	want := w.load.Writes() + uint64(n*w.s.depth)
	w.hub.Eventually(fmt.Sprintf("%d more writes", n*w.s.depth), time.Minute, func() error {
		w.alive()
		if got := w.load.Writes(); got < want {
			return fmt.Errorf("%d of %d", got, want)
		}
		return nil
	})
}

// some is a random number of writes per writer.
func (w *world) some() {
	w.t.Helper()
	n := 100
	if w.s.delay > 0 {
		n = 25
	}
	w.writes(5 + w.rng.IntN(n))
}

// flood writes more than the keeper holds, to one of the disks.
func (w *world) flood() {
	w.t.Helper()
	if err := w.load.Flood(w.rng.IntN(3), floodAt, ringFull); err != nil {
		w.t.Fatalf("write a lot: %v", err)
	}
}

// alive fails the test when the VM has noticed anything.
func (w *world) alive() {
	w.t.Helper()
	if !w.q.Alive() {
		w.t.Fatal("QEMU is dead")
	}
	if err := w.load.Err(); err != nil {
		w.t.Fatalf("the load met an I/O error: %v", err)
	}
}

// api asks the hub.
func (w *world) api(ask func(context.Context, *api.Client) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := api.NewClient(w.hub.Address())
	if err != nil {
		return err
	}
	defer c.Close()
	return ask(ctx, c)
}

func (w *world) status() (g api.GroupStatus) {
	w.t.Helper()
	err := w.api(func(ctx context.Context, c *api.Client) error {
		s, err := c.Status(ctx, "vm")
		if err == nil {
			g = s.Groups[0]
		}
		return err
	})
	if err != nil {
		w.t.Fatalf("ask for the status: %v", err)
	}
	return g
}

func (w *world) keeperPID() (pid int) {
	w.t.Helper()
	if w.agent != nil {
		pid, err := w.agent.Keeper()
		if err != nil {
			w.t.Fatal(err)
		}
		return pid
	}
	err := w.api(func(ctx context.Context, c *api.Client) error {
		i, err := c.Info(ctx)
		pid = i.Keeper.PID
		return err
	})
	if err != nil || pid == 0 {
		w.t.Fatalf("find the keeper: process %d, %v", pid, err)
	}
	return pid
}

// whole waits until the group is protected again by itself: until what is
// written from now on becomes a point.
func (w *world) whole() { w.t.Helper(); w.wholeIn(0) }

// wholeIn is whole in an epoch, or a later one.
func (w *world) wholeIn(epoch uint64) {
	w.t.Helper()
	before := w.status().LastSeq
	w.hub.Eventually("the group is protected again", time.Minute, func() error {
		w.alive()
		g := w.status()
		if g.State != api.StateProtected || g.DurableSeq <= before || g.Epoch < epoch {
			return fmt.Errorf("it is %s (%s) in epoch %d, with the newest point at %d of %d, and %d when this began",
				g.State, g.Reason, g.Epoch, g.DurableSeq, g.LastSeq, before)
		}
		return nil
	})
}

// degraded waits until the hub says that it does not record.
func (w *world) degraded() {
	w.t.Helper()
	w.hub.Eventually("the group is degraded", time.Minute, func() error {
		w.alive()
		if g := w.status(); g.State != api.StateDegraded {
			return fmt.Errorf("it is %s, with points from %d to %d of %d", g.State, g.FirstSeq, g.DurableSeq, g.LastSeq)
		}
		return nil
	})
}

// quick tells whether no write since the last time took too long. The load waits
// in more queues than the twin, so on a busy machine it may take twice as long.
func (w *world) quick(what string, patience time.Duration) bool {
	w.t.Helper()
	took := w.load.TakeSlowest()
	w.slowest = max(w.slowest, took)
	control := max(w.control, w.twin.TakeSlowest())
	w.t.Logf("%s: slowest write %s, without a tap %s", what, took, control)
	return took <= control+max(patience, control)
}

// settled stops the load and waits until its last write is a point.
func (w *world) settled() {
	w.t.Helper()
	if err := w.load.Stop(); err != nil {
		w.t.Fatalf("the load met an I/O error: %v", err)
	}
	w.hub.Eventually("the last write is a point", time.Minute, func() error {
		if g := w.status(); g.State != api.StateProtected || g.DurableSeq != g.LastSeq {
			return fmt.Errorf("%s (%s), point %d of %d", g.State, g.Reason, g.DurableSeq, g.LastSeq)
		}
		return nil
	})
}

// equal checks that the newest point holds what the source holds.
func (w *world) equal() {
	w.t.Helper()
	p := w.read(w.status().DurableSeq, sourceSize)
	for i, uri := range w.guests() {
		want := make([]byte, sourceSize)
		if err := readAll(uri, want); err != nil {
			w.t.Fatal(err)
		}
		for off := 0; off < len(want); off += 512 {
			if !bytes.Equal(want[off:off+512], p.data[i][off:off+512]) {
				w.t.Fatalf("disk %d differs from its source at byte %d", i, off)
			}
		}
	}
}

func readAll(uri string, p []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := nbd.Dial(ctx, uri, nbd.DialOptions{})
	if err != nil {
		return err
	}
	defer c.Close()
	return c.ReadAt(ctx, p, 0)
}
