package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// remote is a QEMU with three disks under load on a host with an agent, protected
// as group "vm" by a hub that reaches the host through the agent only.
type remote struct {
	net   *rig.Network
	hub   *rig.Hub
	agent *rig.Agent
	q     *vmtest.QEMU
	load  *rig.Chains
}

func newRemote(t *testing.T, cfg vmtest.Config, args ...string) *remote {
	t.Helper()
	r := &remote{net: rig.NewNetwork(t)}
	r.hub = rig.NewHubForAgents(t, r.net, nil)
	if len(cfg.Disks) == 0 {
		cfg.Disks = []vmtest.Disk{{}, {}, {}}
	}
	r.q = vmtest.Start(t, cfg)
	r.agent = rig.NewAgent(t, r.hub, r.net, rig.AgentConfig{Name: "kvm1", VMs: []*vmtest.QEMU{r.q}, Args: args})
	r.startLoad(t)
	r.hub.WaitVM("vm", "kvm1")
	r.hub.Must("protect", "vm", "--group", "vm", "--wait")
	r.hub.WaitState("vm", api.StateProtected)
	return r
}

func (r *remote) startLoad(t *testing.T) {
	t.Helper()
	var uris []string
	for _, node := range r.q.Nodes() {
		uris = append(uris, r.q.GuestURI(node))
	}
	load, err := rig.StartChains(chains, uris...)
	if err != nil {
		t.Fatal(err)
	}
	r.load = load
	t.Cleanup(func() {
		if err := load.Stop(); err != nil && r.q.Alive() {
			t.Errorf("the load met an I/O error: %v", err)
		}
	})
}

func TestAgentShipsEveryPoint(t *testing.T) {
	r := newRemote(t, vmtest.Config{})
	first := r.hub.Group("vm").FirstSeq
	moreWrites(t, r.hub, r.load, 2000)
	last := r.hub.WaitDurable("vm")
	for _, at := range []uint64{first, first + (last-first)/2, last} {
		m, _ := verify(t, r.hub, r.q, fmt.Sprintf("seq:%d", at))
		r.hub.Must("unmount", m.ID)
	}
	var p api.Plan // the VM is known where its host can be asked no more
	if r.hub.JSON(&p, "plan", "show", "vm"); len(p.VMs) != 1 || p.VMs[0].Source != "qemu" || p.VMs[0].Since == nil || p.VMs[0].Reason != "" || len(p.VMs[0].Disks) == 0 {
		t.Errorf("the recovery plan is %+v", p)
	}
}

// VMs have processors on which neither agent nor hub runs, when both are on their host. The keeper has them all, and so does the agent's
// thread that watches it and goes as first.
func TestVMsHaveProcessorsOfTheirOwn(t *testing.T) {
	r := newRemote(t, vmtest.Config{})
	keeper, err := r.agent.Keeper()
	if err != nil {
		t.Fatal(err)
	}
	all := runtime.NumCPU()
	half := max(1, all/2)
	for pid, want := range map[int]int{r.agent.PID(): half, r.hub.PID(): half, keeper: all} {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			tid, _ := strconv.Atoi(task.Name())
			var set unix.CPUSet
			attr, err := unix.SchedGetAttr(tid, 0)
			if err != nil || unix.SchedGetaffinity(tid, &set) != nil {
				continue // it has ended
			}
			if watches := pid == r.agent.PID() && attr.Policy == unix.SCHED_NORMAL; set.Count() != want && !(watches && set.Count() == all) {
				t.Errorf("thread %d of process %d has %d processors, not %d (agent %d, hub %d, keeper %d)", tid, pid, set.Count(), want, r.agent.PID(), r.hub.PID(), keeper)
			}
		}
	}
}

// What a slow network keeps from the hub is told, to people and to Prometheus.
func TestAgentIsBehind(t *testing.T) {
	r := newRemote(t, vmtest.Config{})
	r.net.Proxy.Set(rig.Weather{Rate: 256 << 10})
	r.hub.Eventually("the status tells what is on its way", time.Minute, func() error {
		if out := r.hub.Must("status", "vm"); !strings.Contains(out, "of earlier writes are on their way from the host") {
			return errors.New(out)
		}
		return nil
	})
	for _, want := range []string{`rephub_group_spool_bytes{group="vm"} [1-9]`, `rephub_agents_online 1`} {
		if got := r.hub.Metrics(); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	r.net.Proxy.Set(rig.Weather{})
	r.load.Stop()
	r.hub.WaitDurable("vm")
	r.hub.Eventually("nothing is on its way", time.Minute, func() error {
		if n := r.hub.Group("vm").SpoolBytes; n > 0 {
			return fmt.Errorf("%d bytes are", n)
		}
		return nil
	})
}

// A disk that is plugged in after all disks of a VM were protected is told of,
// and the hint says how to protect it.
func TestDiskComesLater(t *testing.T) {
	r := newRemote(t, vmtest.Config{})
	late := filepath.Join(t.TempDir(), "late.img")
	if err := os.WriteFile(late, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	r.q.Must("blockdev-add", map[string]any{
		"driver": "raw", "node-name": "late", "file": map[string]any{"driver": "file", "filename": late},
	}, nil)
	r.hub.Eventually("the status tells of it", time.Minute, func() error {
		if g := r.hub.Group("vm"); g.State != api.StateProtected || !slices.Equal(g.Unprotected, []string{"vm/late"}) {
			return fmt.Errorf("%s, unprotected: %v", g.State, g.Unprotected)
		}
		return nil
	})
	out := r.hub.Must("status", "vm")
	for _, want := range []string{"vm/late came later and no group protects it", "hint: rephub protect vm --volume late --group NAME"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if got := r.hub.Metrics(); !strings.Contains(got, `rephub_group_unprotected_volumes{group="vm"} 1`) {
		t.Errorf("not in the metrics:\n%s", got)
	}
	r.hub.Must("protect", "vm", "--volume", "late", "--group", "late", "--wait")
	r.hub.Eventually("all is protected", time.Minute, func() error {
		if g := r.hub.Group("vm"); g.State != api.StateProtected || len(g.Unprotected) > 0 {
			return fmt.Errorf("%s, unprotected: %v", g.State, g.Unprotected)
		}
		if g := r.hub.Group("late"); len(g.Unprotected) > 0 {
			return fmt.Errorf("group late misses %v", g.Unprotected)
		}
		return nil
	})
}

// A hub is gone for good: the taps leave the VMs without it.
func TestReleaseWithoutAHub(t *testing.T) {
	r := newRemote(t, vmtest.Config{})
	r.hub.Kill()
	release := func(args ...string) (string, error) {
		return r.agent.Run(append([]string{"agent", "release", "--data", r.agent.Data()}, args...)...)
	}
	if out, err := release("vm"); err == nil || !strings.Contains(out, "stop that agent") {
		t.Errorf("while the agent runs: %v: %s", err, out)
	}
	r.agent.Stop()
	if out, err := release("other"); err == nil || !strings.Contains(out, "its groups: vm") {
		t.Errorf("a group that is not there: %v: %s", err, out)
	}
	if out, err := release("vm"); err != nil || !strings.Contains(out, "released vm") {
		t.Fatalf("%v: %s", err, out)
	}
	var jobs []struct{ Device string }
	r.q.Must("query-block-jobs", nil, &jobs)
	if len(jobs) > 0 {
		t.Errorf("taps are left: %v", jobs)
	}
	var nodes []struct {
		Node    string `json:"node-name"`
		Bitmaps []any  `json:"dirty-bitmaps"`
	}
	r.q.Must("query-named-block-nodes", nil, &nodes)
	for _, n := range nodes {
		if len(n.Bitmaps) > 0 {
			t.Errorf("dirty bitmaps are left on %s: %v", n.Node, n.Bitmaps)
		}
	}
	if left, err := os.ReadDir(filepath.Join(r.agent.Data(), "groups")); err != nil || len(left) > 0 {
		t.Errorf("groups are left: %v, %v", left, err)
	}
	damaged := filepath.Join(r.agent.Data(), "groups", "damaged")
	if err := errors.Join(os.Mkdir(damaged, 0o700), os.WriteFile(filepath.Join(damaged, "group.json"), []byte("nonsense"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if out, err := release("--all"); err == nil || !strings.Contains(out, damaged) {
		t.Errorf("what is known of a group is damaged: %v: %s", err, out)
	}
	if err := os.RemoveAll(damaged); err != nil {
		t.Fatal(err)
	}
	if out, err := release("--all"); err != nil || !strings.Contains(out, "nothing") {
		t.Errorf("a second time: %v: %s", err, out)
	}
}
