package e2e

import (
	"fmt"
	"testing"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// remote is a QEMU with three disks under load on a host with an agent, protected
// as group "vm" by a hub that reaches the host through the agent only.
type remote struct {
	hub   *rig.Hub
	agent *rig.Agent
	q     *vmtest.QEMU
	load  *rig.Chains
}

func newRemote(t *testing.T, cfg vmtest.Config, args ...string) *remote {
	t.Helper()
	r := &remote{}
	n := rig.NewNetwork(t)
	r.hub = rig.NewHubForAgents(t, n, nil)
	if len(cfg.Disks) == 0 {
		cfg.Disks = []vmtest.Disk{{}, {}, {}}
	}
	r.q = vmtest.Start(t, cfg)
	r.agent = rig.NewAgent(t, r.hub, n, rig.AgentConfig{Name: "kvm1", VMs: []*vmtest.QEMU{r.q}, Args: args})
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
}
