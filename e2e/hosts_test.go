package e2e

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// pool is a group of VMs whose load goes over all of their disks: its chains
// alternate between the VMs.
type pool struct {
	t     *testing.T
	hub   *rig.Hub
	group string
	vms   map[string]*vmtest.QEMU
	names []string // of volumes, in the order of the chains
	load  *rig.Chains
}

// newPool starts VMs with two disks each.
func newPool(t *testing.T, hub *rig.Hub, group string, names ...string) *pool {
	t.Helper()
	p := &pool{t: t, hub: hub, group: group, vms: map[string]*vmtest.QEMU{}}
	for _, name := range names {
		p.vms[name] = vmtest.Start(t, vmtest.Config{Name: name, Disks: []vmtest.Disk{{}, {}}})
	}
	for _, node := range []string{"disk0", "disk1"} {
		for _, name := range names {
			p.names = append(p.names, name+"/"+node)
		}
	}
	return p
}

func (p *pool) all() (list []*vmtest.QEMU) {
	for _, q := range p.vms {
		list = append(list, q)
	}
	return list
}

// guests are where the disks are written.
func (p *pool) guests() (uris []string) {
	for _, volume := range p.names {
		for name, q := range p.vms {
			for _, node := range q.Nodes() {
				if volume == name+"/"+node {
					uris = append(uris, q.GuestURI(node))
				}
			}
		}
	}
	return uris
}

// begin starts the load after these numbers of its chains.
func (p *pool) begin(from []uint64) {
	p.t.Helper()
	load, err := rig.ContinueChains(from, p.guests()...)
	if err != nil {
		p.t.Fatal(err)
	}
	p.load = load
	p.t.Cleanup(func() { _ = load.Stop() })
}

// protect waits until the agent shows the VMs, and protects them as one group.
func (p *pool) protect() {
	p.t.Helper()
	args := []string{"protect"}
	for name := range p.vms {
		args = append(args, name)
	}
	p.hub.Eventually("the VMs are seen", time.Minute, func() error {
		var l api.VMs
		p.hub.JSON(&l, "vm", "list")
		n := 0
		for _, m := range l.VMs {
			if p.vms[m.Name] != nil && m.Reachable {
				n++
			}
		}
		if n < len(p.vms) {
			return fmt.Errorf("the hub's VMs are %+v", l.VMs)
		}
		return nil
	})
	p.hub.Must(append(args, "--group", p.group, "--wait")...)
	p.hub.WaitState(p.group, api.StateProtected)
}

// look checks that a point is one moment of all disks.
func (p *pool) look(seq uint64) {
	p.t.Helper()
	m := p.hub.Mount(p.group, fmt.Sprintf("seq:%d", seq))
	var list []string
	for _, name := range p.names {
		for _, v := range m.Volumes {
			if v.Name == name {
				list = append(list, v.URI)
			}
		}
	}
	if _, err := rig.VerifyChains(context.Background(), chains, list...); err != nil {
		p.t.Errorf("point %d of group %s: %v", seq, p.group, err)
	}
	p.hub.Must("unmount", m.ID)
}

// sample looks at some points from one to another.
func (p *pool) sample(from, to uint64) {
	p.t.Helper()
	for i := range uint64(6) {
		p.look(from + (to-from)*i/5)
	}
}

// again waits until the group is protected in the epoch, or a later one.
func (p *pool) again(epoch uint64) {
	p.t.Helper()
	p.hub.Eventually(fmt.Sprintf("group %s is protected in epoch %d", p.group, epoch), time.Minute, func() error {
		if g := p.hub.Group(p.group); g.State != api.StateProtected || g.Epoch < epoch {
			return fmt.Errorf("it is %s (%s) in epoch %d", g.State, g.Reason, g.Epoch)
		}
		return nil
	})
}

// The writes of two VMs have one order when they are one group, whatever happens
// to the agent, the network or one of them.
func TestOneOrderOfTwoVMs(t *testing.T) {
	n := rig.NewNetwork(t)
	hub := rig.NewHubForAgents(t, n, nil)
	p := newPool(t, hub, "pair", "one", "two")
	agent := rig.NewAgent(t, hub, n, rig.AgentConfig{Name: "kvm1", VMs: p.all()})
	p.begin(make([]uint64, chains))
	p.protect()
	g := hub.Group("pair")
	first := g.FirstSeq
	moreWrites(t, hub, p.load, 1000)
	agent.Kill()
	n.Proxy.Set(rig.Weather{How: rig.Cut})
	moreWrites(t, hub, p.load, 1000)
	agent.Start()
	moreWrites(t, hub, p.load, 1000)
	n.Proxy.Set(rig.Weather{})
	p.again(g.Epoch)
	last := hub.WaitDurable("pair")
	if now := hub.Group("pair"); now.Epoch != g.Epoch || len(now.Ranges) != 1 {
		t.Errorf("epoch %d, then %d with points %v", g.Epoch, now.Epoch, now.Ranges)
	}
	p.sample(first, last)

	p.vms["two"].Kill()
	if err := p.load.Stop(); err == nil {
		t.Error("the load did not notice that a VM is dead")
	}
	p.vms["two"].Restart()
	tops, err := rig.VerifyChains(t.Context(), chains, p.guests()...)
	if err != nil {
		t.Fatalf("the sources after the death of one VM: %v", err)
	}
	p.begin(tops)
	p.again(g.Epoch + 1)
	moreWrites(t, hub, p.load, 1000)
	hub.WaitDurable("pair")
	now := hub.Group("pair")
	if len(now.Ranges) != 2 {
		t.Fatalf("the points are %v", now.Ranges)
	}
	for _, r := range now.Ranges {
		p.sample(r[0], r[1])
	}
	if err := p.load.Err(); err != nil {
		t.Errorf("the load met an I/O error: %v", err)
	}
}

// What happens to one host is nothing to the group of another.
func TestTwoHosts(t *testing.T) {
	n := rig.NewNetwork(t)
	hub := rig.NewHubForAgents(t, n, nil)
	var pools []*pool
	var agents []*rig.Agent
	for _, name := range []string{"a", "b"} {
		p := newPool(t, hub, "group-"+name, "vm-"+name)
		agents = append(agents, rig.NewAgent(t, hub, n, rig.AgentConfig{Name: "host-" + name, VMs: p.all()}))
		p.begin(make([]uint64, chains))
		p.protect()
		pools = append(pools, p)
	}
	a, b := pools[0], pools[1]
	was := hub.Group(a.group)
	agents[0].Signal(syscall.SIGSTOP)
	thaw := func() { _ = syscall.Kill(agents[0].PID(), syscall.SIGCONT) }
	defer thaw()
	hub.WaitState(a.group, api.StateDegraded)
	for _, p := range pools {
		moreWrites(t, hub, p.load, 500)
	}
	hub.WaitDurable(b.group)
	if g := hub.Group(b.group); g.State != api.StateProtected {
		t.Errorf("%s is %s: %s", b.group, g.State, g.Reason)
	}
	thaw()
	a.again(was.Epoch)
	for _, p := range pools {
		hub.WaitDurable(p.group)
		g := hub.Group(p.group)
		if len(g.Ranges) != 1 {
			t.Errorf("%s has points %v", p.group, g.Ranges)
		}
		p.sample(g.FirstSeq, g.DurableSeq)
		if err := errors.Join(p.load.Stop(), p.load.Err()); err != nil {
			t.Errorf("the load of %s met an I/O error: %v", p.group, err)
		}
	}
	if g := hub.Group(a.group); g.Epoch != was.Epoch {
		t.Errorf("epoch %d, then %d", was.Epoch, g.Epoch)
	}
}
