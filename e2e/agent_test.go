package e2e

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

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
