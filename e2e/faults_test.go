package e2e

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/vm"
)

// fault is something that goes wrong, and is mended again.
type fault struct {
	name string
	do   func(*world)
	// losesTaps: QEMU may lose a tap, which can kill it (docs/qemu.md).
	losesTaps bool
	endsVM    bool
	missed    bool // writes are missed for sure, and have to be synced
	stalls    bool // needs a disk that can
	kept      bool // every write is kept, and nothing is synced
}

var faults = []fault{
	{name: "hub killed", do: (*world).killHub},
	{name: "hub killed and the ring full", do: (*world).killHubLong, missed: true},
	{name: "hub stopped", do: (*world).freezeHub},
	{name: "hub's disk full", do: (*world).fillDisk},
	{name: "hub's disk full and hub killed", do: (*world).fillDiskAndKill},
	{name: "hub's disk stalled", do: (*world).stallDisk, stalls: true},
	{name: "hub's disk stalled and hub killed", do: (*world).stallDiskAndKill, stalls: true},
	{name: "keeper killed", do: (*world).killKeeper, losesTaps: true, missed: true},
	{name: "keeper and hub killed", do: (*world).killBoth, losesTaps: true, missed: true},
	{name: "keeper stopped", do: (*world).freezeKeeper, losesTaps: true},
	{name: "one tap lost", do: (*world).loseTap, losesTaps: true, missed: true},
	{name: "VM killed", do: (*world).killVM, endsVM: true, missed: true},
	{name: "VM killed while the hub is away", do: (*world).killVMAndHub, endsVM: true, missed: true},
}

func TestFaults(t *testing.T) {
	for _, s := range []setup{
		{name: "fast source, depth 16", depth: 16, disk: rig.NewLoop},
		{name: "slow source, depth 16", depth: 16, slow: true, disk: rig.NewTmpfs},
		{name: "fast source, depth 1", depth: 1, disk: rig.NewTmpfs},
		{name: "slow source, depth 1", depth: 1, slow: true, disk: rig.NewLoop},
	} {
		t.Run(s.name, func(t *testing.T) {
			seed := seed(t)
			rng := rand.New(rand.NewPCG(seed, 0))
			w := newWorld(t, s, rng)
			w.whole()
			w.history(false)
			if !w.quick("first sync", patience) {
				t.Error("a write took too long")
			}
			rounds(w, faults, len(faults))
			w.settled()
			w.history(true)
			w.equal()
			t.Logf("%d points looked at, %d of them twice, in %d ranges; slowest write %s, without a tap %s; QEMU died %d times of a lost tap",
				w.points, len(w.memory.points), len(w.memory.ranges), w.slowest, w.control, w.deaths)
		})
	}
}

// seed is REPHUB_SEED, or one that is logged.
func seed(t *testing.T) uint64 {
	seed, err := strconv.ParseUint(os.Getenv("REPHUB_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("REPHUB_SEED=%d", seed)
	return seed
}

// rounds does each fault once, in a random order, and then more of them until
// the time for random tests is over. Without such time it does so many at most.
func rounds(w *world, faults []fault, most int) {
	w.t.Helper()
	end := time.Now().Add(rig.Budget(0) / 4)
	if rig.Budget(0) > 0 || os.Getenv("REPHUB_FAULT") != "" {
		most = len(faults)
	}
	for n, first := 0, true; first || n > 0 && time.Now().Before(end); first = false {
		for _, i := range w.rng.Perm(len(faults))[:most] {
			f := faults[i]
			if only := os.Getenv("REPHUB_FAULT"); f.stalls && !w.disk.CanStall() || !strings.Contains(f.name, only) {
				continue
			}
			n++
			took := watched(func() { w.round(f) })
			w.t.Logf("round %d: %s: %s", n, f.name, took.Round(time.Millisecond))
			if w.t.Failed() {
				return
			}
		}
	}
}

// tries is how often a fault is tried that makes a write slow: a machine that is
// busy elsewhere can do that once, a tap that waits for something does it always.
const tries = 3

func (w *world) round(f fault) {
	w.t.Helper()
	for range tries {
		if w.try(f) || w.t.Failed() {
			return
		}
	}
	w.t.Errorf("%s: a write took too long each time of %d", f.name, tries)
}

// try lets a fault happen; it is false when it was seen in nothing but the time
// that a write took.
func (w *world) try(f fault) bool {
	w.t.Helper()
	w.some()
	before, syncs := w.status(), w.syncs()
	f.do(w)
	if f.losesTaps && w.s.slow {
		w.bury()
	}
	if f.endsVM {
		w.again()
	}
	next := uint64(0)
	if f.missed && w.agent != nil {
		next = before.Epoch + 1 // the hub hears of it a little later
	}
	w.wholeIn(next)
	after := w.status()
	if f.missed && after.Epoch == before.Epoch {
		w.t.Errorf("%s: the group is still in epoch %d, as if nothing had been missed", f.name, before.Epoch)
	}
	if f.kept {
		w.gapless(before, after)
		if n := w.syncs() - syncs; n != 0 {
			w.t.Errorf("%d syncs were made, though nothing was to be missed", n)
		}
	}
	w.some()
	patience := patience
	if w.agent != nil && !f.losesTaps && !f.endsVM {
		patience = agentPatience
	}
	during := w.quick(f.name, patience)
	w.history(false)
	return w.quick("reading points after: "+f.name, patience) && during
}

// gapless checks that all writes between two moments are points, and that
// nothing was synced: a sync begins with a new epoch.
func (w *world) gapless(before, after api.GroupStatus) {
	w.t.Helper()
	if before.Epoch != after.Epoch {
		w.t.Errorf("the group was in epoch %d and is in %d, though nothing was to be missed", before.Epoch, after.Epoch)
	}
	for i, r := range after.Ranges {
		if i > 0 && r[0] > before.DurableSeq {
			w.t.Errorf("there is a gap before point %d: %v; the newest point was %d", r[0], after.Ranges, before.DurableSeq)
		}
	}
}

func (w *world) killHub() {
	w.t.Helper()
	w.hub.Kill()
	w.some()
	w.hub.Start()
}

func (w *world) killHubLong() {
	w.t.Helper()
	w.hub.Kill()
	w.flood()
	w.some()
	w.hub.Start()
}

func (w *world) freezeHub() {
	w.t.Helper()
	w.hub.Freeze()
	defer w.hub.Thaw()
	w.some()
	if w.rng.IntN(2) == 0 {
		w.flood()
		w.some()
	}
}

func (w *world) fillDisk() {
	w.t.Helper()
	w.disk.Fill()
	defer w.disk.GiveBack()
	w.some()
	if w.short == 0 { // a short history gives space back by itself
		w.degraded()
	}
	if w.rng.IntN(2) == 0 {
		w.flood()
	}
	w.some()
}

func (w *world) fillDiskAndKill() {
	w.t.Helper()
	func() {
		w.disk.Fill()
		defer w.disk.GiveBack()
		w.some()
		w.hub.Kill()
		w.some()
	}()
	w.hub.Start()
}

func (w *world) stallDisk() {
	w.t.Helper()
	w.disk.Stall()
	defer w.disk.Unstall()
	w.some()
	if w.rng.IntN(2) == 0 {
		w.flood()
		w.some()
	}
}

// stallDiskAndKill: a process that waits for a disk dies only when that answers.
func (w *world) stallDiskAndKill() {
	w.t.Helper()
	func() {
		w.disk.Stall()
		defer w.disk.Unstall()
		w.some()
		w.hub.Signal(syscall.SIGKILL)
		w.some()
	}()
	w.hub.Kill()
	w.hub.Start()
}

func (w *world) killKeeper() {
	w.t.Helper()
	if err := syscall.Kill(w.keeperPID(), syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) killBoth() {
	w.t.Helper()
	pid := w.keeperPID()
	w.hub.Kill()
	w.some()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	w.hub.Start()
}

// freezeKeeper stops the keeper, in half of the cases again and again until
// its taps are given up.
func (w *world) freezeKeeper() {
	w.t.Helper()
	pid := w.keeperPID()
	end := time.Now()
	if w.rng.IntN(2) == 0 {
		end = end.Add(300 * time.Millisecond)
	}
	defer syscall.Kill(pid, syscall.SIGCONT)
	w.hub.Eventually("the keeper is stopped for long enough", 5*time.Second, func() error {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			w.t.Fatal(err)
		}
		if time.Now().Before(end) {
			return fmt.Errorf("it is to be until %s", end)
		}
		return nil
	})
}

// loseTap cuts the connection of one tap of three.
func (w *world) loseTap() {
	w.t.Helper()
	var nodes []struct {
		Type string `json:"type"`
		Node string `json:"node-name"`
	}
	w.q.Must("query-yank", nil, &nodes)
	var taps []any
	for _, n := range nodes {
		if _, _, _, ours := vm.ParseName(n.Node); n.Type == "block-node" && ours {
			taps = append(taps, map[string]any{"type": n.Type, "node-name": n.Node})
		}
	}
	if len(taps) != 3 {
		w.t.Fatalf("QEMU has taps %v of %v", taps, nodes)
	}
	lost := taps[w.rng.IntN(len(taps))]
	if err := w.q.Do("yank", map[string]any{"instances": []any{lost}}, nil); err != nil && w.q.Alive() {
		w.t.Fatal(err)
	}
}

// bury waits until the loss of a tap is over, and when QEMU has not survived
// it, which is a known fault of its own, starts the VM again where it crashed.
func (w *world) bury() {
	w.t.Helper()
	done := w.load.Writes() + uint64(20*w.s.depth)
	w.hub.Eventually("the VM goes on or is dead", 30*time.Second, func() error {
		if w.q.Alive() && w.load.Writes() < done {
			return fmt.Errorf("%d writes of %d", w.load.Writes(), done)
		}
		return nil
	})
	if w.q.Alive() {
		return
	}
	w.deaths++
	w.again()
}

func (w *world) killVM() { w.q.Kill() }

func (w *world) killVMAndHub() {
	w.t.Helper()
	w.hub.Kill()
	w.some()
	w.q.Kill()
	w.hub.Start()
}

// offline changes a disk while its VM is down, as a file system check would:
// neither taps nor bitmaps know of it.
func (w *world) offline() {
	w.t.Helper()
	at := offlineAt + w.rng.Int64N((drizzleAt-offlineAt)/512)*512
	cmd := exec.Command("qemu-io", "-f", cmp.Or(w.s.format, "raw"), "-c", fmt.Sprintf("write -P %d %d 512", 1+w.rng.IntN(255), at),
		w.q.Image(w.q.Nodes()[w.rng.IntN(3)]))
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("write to the image: %v: %s", err, out)
	}
}

// again starts a dead VM and its load where they crashed.
func (w *world) again() {
	w.t.Helper()
	_ = w.load.Stop()
	w.offline()
	w.q.Restart()
	tops, err := rig.VerifyChains(context.Background(), w.s.depth, w.guests()...)
	if err != nil {
		w.t.Fatalf("the source after QEMU's death: %v", err)
	}
	w.startLoad(tops)
}
