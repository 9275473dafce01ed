package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// behind is what a world has whose VM is behind an agent.
type behind struct {
	net    *rig.Network
	agent  *rig.Agent
	spools *rig.Disk
	outage time.Duration // how long a fault lasts at least
}

const (
	spoolDisk  = 4 << 30
	roomySpool = 2 << 30
	smallSpool = 32 << 20
	// agentPatience is how much longer than without a tap a write may take as long
	// as no tap is lost.
	agentPatience = 200 * time.Millisecond
)

// agentFaults are with a spool that has room for all that is written meanwhile.
var agentFaults = []fault{
	{name: "hub killed", do: (*world).killHubLater, kept: true},
	{name: "hub stopped", do: (*world).stopHub, kept: true},
	{name: "hub's disk full", do: (*world).fillHubDisk, kept: true},
	{name: "hub's disk stalled", do: (*world).stallHubDisk, kept: true},
	{name: "hub without power", do: (*world).loseHubPower, kept: true},
	{name: "network cut", do: weather(rig.Weather{How: rig.Cut}), kept: true},
	{name: "network blackholed", do: weather(rig.Weather{How: rig.Swallow}), kept: true},
	{name: "network silent", do: weather(rig.Weather{How: rig.Hold}), kept: true},
	{name: "network with 50 ms", do: weather(rig.Weather{Delay: 25 * time.Millisecond}), kept: true},
	{name: "network with 10 Mbit/s", do: weather(rig.Weather{Rate: 10e6 / 8}), kept: true},
	{name: "network flapping", do: (*world).flap, kept: true},
	{name: "agent killed", do: (*world).killAgent, kept: true},
	{name: "agent killed and the network cut", do: (*world).killAgentAlone, kept: true},
	{name: "agent stopped", do: (*world).stopAgent, kept: true},
	{name: "agent upgraded", do: (*world).upgradeAgent, kept: true},
	{name: "agent stopped and the ring full", do: (*world).stopAgentLong, missed: true},
	{name: "keeper killed", do: (*world).killKeeper, losesTaps: true, missed: true},
	{name: "keeper and agent killed", do: (*world).killKeeperAndAgent, losesTaps: true, missed: true},
	{name: "keeper stopped", do: (*world).freezeKeeper, losesTaps: true},
	{name: "spool's disk full", do: (*world).fillSpoolDisk, kept: true},
	{name: "spool's disk full and the ring too", do: (*world).fillSpoolDiskLong, missed: true},
	{name: "spool's disk stalled", do: (*world).stallSpoolDisk, kept: true},
	{name: "spool's disk failing", do: (*world).breakSpoolDisk},
	{name: "spool's disk failing while the network is cut", do: (*world).breakSpoolDiskAlone},
	{name: "VM killed", do: (*world).killVM, endsVM: true, missed: true},
	{name: "VM killed while the network is cut", do: (*world).killVMAlone, endsVM: true, missed: true},
	{name: "host without power", do: (*world).losePower, endsVM: true, missed: true},
	{name: "host without power while the network is cut", do: (*world).losePowerAlone, endsVM: true, missed: true},
}

// overflowFaults are with a small spool.
var overflowFaults = []fault{
	{name: "network cut and the spool full", do: (*world).overflowCut, missed: true},
	{name: "hub killed and the spool full", do: (*world).overflowKilled, missed: true},
	{name: "network with 10 Mbit/s and the spool full", do: (*world).overflowNarrow, missed: true},
	{name: "VM killed", do: (*world).killVM, endsVM: true, missed: true},
	{name: "host without power", do: (*world).losePower, endsVM: true, missed: true},
	{name: "network flapping while it is synced", do: (*world).syncFlapping, missed: true},
	{name: "hub killed while it is synced", do: (*world).syncHubKilled, missed: true},
	{name: "agent killed while it is synced", do: (*world).syncAgentKilled, missed: true},
	{name: "agent upgraded with another spool size", do: (*world).resizeSpool, kept: true},
}

func TestAgentFaults(t *testing.T) {
	for _, tc := range []struct {
		setup
		faults []fault
		most   int // of them when there is little time; a soak does all
	}{
		{setup{name: "roomy spool, raw", depth: 16, spool: roomySpool}, agentFaults, 7},
		{setup{name: "small spool, qcow2", depth: 4, spool: smallSpool, format: "qcow2"}, overflowFaults, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newAgentWorld(t, tc.setup, rand.New(rand.NewPCG(seed(t), 0)))
			w.whole()
			w.history(false)
			if !w.quick("first sync", patience) {
				t.Error("a write took too long")
			}
			rounds(w, tc.faults, tc.most)
			w.settled()
			w.history(true)
			w.equal()
			t.Logf("%d points looked at, %d of them twice, in %d ranges; slowest write %s, without a tap %s",
				w.points, len(w.memory.points), len(w.memory.ranges), w.slowest, w.control)
		})
	}
}

// newAgentWorld is a world with hub and VM on two hosts. Volumes are in memory.
func newAgentWorld(t *testing.T, s setup, rng *rand.Rand) *world {
	t.Helper()
	w := &world{t: t, rng: rng, s: s}
	w.outage = min(time.Minute, rig.Budget(0)/30)
	w.net = rig.NewNetwork(t)
	w.disk = rig.NewLoop(t, hubDisk)
	w.hub = rig.NewHubForAgents(t, w.net, w.disk)
	volumes := rig.NewTmpfs(t, 4<<30)
	d := vmtest.Disk{Size: sourceSize, Format: s.format}
	w.q = vmtest.Start(t, vmtest.Config{Dir: volumes.Folder("vm"), Disks: []vmtest.Disk{d, d, d}})
	w.stopLoad()
	w.startLoad(make([]uint64, s.depth))
	w.measureControl()
	w.startTwin(volumes.Folder("twin"))
	w.spools = rig.NewLoop(t, spoolDisk)
	w.agent = rig.NewAgent(t, w.hub, w.net, rig.AgentConfig{Name: "kvm1", VMs: []*vmtest.QEMU{w.q}, Spools: w.spools,
		Args: []string{"--spool-size", fmt.Sprint(s.spool)}})
	w.hub.WaitVM("vm", "kvm1")
	w.hub.Must(append([]string{"protect", "vm", "--group", "vm", "--wait"}, w.keptHistory()...)...)
	return w
}

// syncs is how many volumes the agent has synced so far.
func (w *world) syncs() int {
	if w.agent == nil {
		return 0
	}
	return strings.Count(w.agent.Log(), `msg="volume synced"`)
}

// lasting is some writes, and the time that a fault is to last.
func (w *world) lasting() {
	w.t.Helper()
	end := time.Now().Add(w.outage)
	w.some()
	w.hub.Eventually("the fault has lasted long enough", w.outage+time.Minute, func() error {
		w.alive()
		if time.Now().Before(end) {
			return fmt.Errorf("it is to until %s", end)
		}
		return nil
	})
}

func (w *world) killHubLater() {
	w.t.Helper()
	w.hub.Kill()
	w.lasting()
	w.hub.Start()
}

func (w *world) stopHub() {
	w.t.Helper()
	w.hub.Freeze()
	defer w.hub.Thaw()
	w.lasting()
}

func (w *world) fillHubDisk() {
	w.t.Helper()
	w.disk.Fill()
	defer w.disk.GiveBack()
	w.lasting()
	w.degraded()
}

func (w *world) stallHubDisk() {
	w.t.Helper()
	w.disk.Stall()
	defer w.disk.Unstall()
	w.lasting()
}

// loseHubPower: what the hub has not synced is lost, and it has to come from the
// spool again. It says nothing once its disk is broken: a sync that is under way then
// can look good to it (see Disk.Break).
func (w *world) loseHubPower() {
	w.t.Helper()
	w.hub.FreezeAll()
	w.disk.Break()
	w.hub.KillAll()
	w.disk.Mend()
	w.some()
	w.hub.Start()
}

// weather is a fault of the network.
func weather(bad rig.Weather) func(*world) {
	return func(w *world) {
		w.t.Helper()
		w.net.Proxy.Set(bad)
		defer w.net.Proxy.Set(rig.Weather{})
		w.lasting()
	}
}

func (w *world) flap() {
	w.t.Helper()
	stop := w.net.Proxy.Flap(time.Second)
	defer stop()
	w.lasting()
}

func (w *world) killAgent() {
	w.t.Helper()
	w.agent.Kill()
	w.some()
	w.agent.Start()
}

// killAgentAlone: the agent goes on without having seen the hub.
func (w *world) killAgentAlone() {
	w.t.Helper()
	w.net.Proxy.Set(rig.Weather{How: rig.Cut})
	defer w.net.Proxy.Set(rig.Weather{})
	w.some()
	w.killAgent()
	w.lasting()
}

func (w *world) stopAgent() {
	w.t.Helper()
	w.agent.Signal(syscall.SIGSTOP)
	defer w.agent.Signal(syscall.SIGCONT)
	w.some()
}

func (w *world) stopAgentLong() {
	w.t.Helper()
	w.agent.Signal(syscall.SIGSTOP)
	defer w.agent.Signal(syscall.SIGCONT)
	w.flood()
	w.some()
}

func (w *world) upgradeAgent() {
	w.t.Helper()
	w.agent.Stop()
	w.some()
	w.agent.Start()
}

func (w *world) killKeeperAndAgent() {
	w.t.Helper()
	w.agent.KillAll()
	w.some()
	w.agent.Start()
}

func (w *world) fillSpoolDisk() {
	w.t.Helper()
	w.spools.Fill()
	defer w.spools.GiveBack()
	w.some()
}

func (w *world) fillSpoolDiskLong() {
	w.t.Helper()
	w.spools.Fill()
	defer w.spools.GiveBack()
	w.flood()
	w.degraded()
	w.some()
}

func (w *world) stallSpoolDisk() {
	w.t.Helper()
	w.spools.Stall()
	defer w.spools.Unstall()
	w.some()
}

// breakSpoolDisk: every read and write of the spool fails, until somebody mends
// the disk, for which the agent has to be stopped.
func (w *world) breakSpoolDisk() {
	w.t.Helper()
	w.spools.Break()
	w.some()
	w.degraded()
	w.lasting()
	w.agent.Stop()
	w.spools.Mend()
	w.agent.Start()
}

func (w *world) breakSpoolDiskAlone() {
	w.t.Helper()
	w.net.Proxy.Set(rig.Weather{How: rig.Cut})
	defer w.net.Proxy.Set(rig.Weather{})
	w.some()
	w.breakSpoolDisk()
}

func (w *world) killVMAlone() {
	w.t.Helper()
	w.net.Proxy.Set(rig.Weather{How: rig.Cut})
	defer w.net.Proxy.Set(rig.Weather{})
	w.some()
	w.q.Kill()
}

// losePower: agent, keeper and QEMU are gone at once, and what was not synced of
// the spool. The volumes are not on that disk.
func (w *world) losePower() {
	w.t.Helper()
	w.spools.Break()
	w.agent.KillAll()
	w.q.Kill()
	w.spools.Mend()
	w.agent.Start()
}

func (w *world) losePowerAlone() {
	w.t.Helper()
	w.net.Proxy.Set(rig.Weather{How: rig.Cut})
	defer w.net.Proxy.Set(rig.Weather{})
	w.lasting()
	w.losePower()
}

func (w *world) overflowCut() {
	w.t.Helper()
	w.net.Proxy.Set(rig.Weather{How: rig.Cut})
	defer w.net.Proxy.Set(rig.Weather{})
	w.overflow()
}

func (w *world) overflowKilled() {
	w.t.Helper()
	w.hub.Kill()
	w.overflow()
	w.hub.Start()
}

func (w *world) overflowNarrow() {
	w.t.Helper()
	w.net.Proxy.Set(rig.Weather{Rate: 10e6 / 8})
	defer w.net.Proxy.Set(rig.Weather{})
	w.flood()
	w.flood()
	w.degraded() // for a while; then there is room for a sync
	w.lasting()
}

// overflow writes more than ring and spool hold together.
func (w *world) overflow() {
	w.t.Helper()
	w.flood()
	w.flood()
	w.lasting()
}

// syncing overflows, and waits until what was missed is being synced.
func (w *world) syncing() {
	w.t.Helper()
	before := w.status()
	w.overflowCut()
	w.hub.Eventually("a sync has begun", time.Minute, func() error {
		w.alive()
		if g := w.status(); g.Epoch == before.Epoch {
			return fmt.Errorf("it is %s (%s) in epoch %d", g.State, g.Reason, g.Epoch)
		}
		return nil
	})
}

func (w *world) syncFlapping() {
	w.t.Helper()
	w.syncing()
	stop := w.net.Proxy.Flap(200 * time.Millisecond)
	defer stop()
	w.lasting()
}

func (w *world) syncHubKilled() {
	w.t.Helper()
	w.syncing()
	w.killHubLater()
}

func (w *world) syncAgentKilled() {
	w.t.Helper()
	w.syncing()
	w.killAgent()
}

// resizeSpool gives the spool more room, and less than its last segment has.
func (w *world) resizeSpool() {
	w.t.Helper()
	w.agent.Stop()
	w.agent.Start("--spool-size", fmt.Sprint(roomySpool))
	w.whole()
	if err := w.load.Flood(w.rng.IntN(3), floodAt, 2*smallSpool); err != nil {
		w.t.Fatal(err)
	}
	w.some()
	w.agent.Stop()
	w.agent.Start()
}
