package circle

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/nbd"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if b, err := bootFiles(); err == nil {
		os.RemoveAll(filepath.Dir(b.Initrd))
	}
	os.Exit(code)
}

// sites are two of them: at home a VM runs, protected through an agent by the hub that is away.
type sites struct {
	t     *testing.T
	net   *rig.Network
	away  *rig.Hub
	agent *rig.Agent // at home
	dir   string     // at home
	web   *guest
}

func newSites(t *testing.T) *sites {
	t.Helper()
	dir, err := os.MkdirTemp("", "home")
	if err != nil {
		t.Fatal(err)
	}
	s := &sites{t: t, dir: dir, net: rig.NewNetwork(t)}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s.away = rig.NewHubForAgents(t, s.net, nil)
	endVMs(t, s.away)
	s.web = startGuest(t, s.net.Host, dir, "web")
	s.agent = rig.NewAgent(t, s.away, s.net, rig.AgentConfig{Name: "kvm1", Args: []string{"--qmp-glob", filepath.Join(dir, "*.qmp")}})
	s.away.WaitVM("web", "kvm1")
	s.away.Must("protect", "web", "--wait")
	s.web.writes(s.away, 20)
	s.away.WaitDurable("web")
	return s
}

// endVMs ends the VMs that a hub has started, with the test.
func endVMs(t *testing.T, h *rig.Hub) {
	data := h.Data()
	t.Cleanup(func() { _ = exec.Command("pkill", "-KILL", "-f", "unix:"+data+"/run/").Run() })
}

// failoverOf is the newest failover of a kind, as the list tells.
func failoverOf(t *testing.T, h *rig.Hub, kind string) api.Failover {
	t.Helper()
	var l api.Failovers
	h.JSON(&l, "failover", "list")
	for _, f := range slices.Backward(l.Failovers) {
		if f.Kind == kind {
			return f
		}
	}
	t.Fatalf("there is no %s in %+v", kind, l)
	return api.Failover{}
}

// guestOf is the guest of the one VM of a failover.
func guestOf(t *testing.T, f api.Failover) *recovered {
	t.Helper()
	if len(f.VMs) != 1 || !f.VMs[0].Running {
		t.Fatalf("%+v", f)
	}
	r := &recovered{t: t, monitor: f.VMs[0].QMP}
	if f.VMs[0].NamedQMP != "" {
		r.monitor = f.VMs[0].NamedQMP
	}
	return r
}

// content reads a disk.
func content(t *testing.T, uri string) []byte {
	t.Helper()
	c, err := nbd.Dial(t.Context(), uri, nbd.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := make([]byte, diskSize)
	for off := 0; off < diskSize; off += 1 << 20 {
		if err := c.ReadAt(context.Background(), p[off:off+1<<20], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// mounted are the volumes at a point.
func mounted(t *testing.T, h *rig.Hub, group, at string) map[string][]byte {
	t.Helper()
	m := h.Mount(group, at)
	out := map[string][]byte{}
	for _, v := range m.Volumes {
		out[v.Name] = content(t, v.URI)
	}
	h.Must("unmount", m.ID)
	return out
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The whole circle: protected, tested, lost, failed over, at work on the other side, and brought home.
func TestCircle(t *testing.T) {
	s := newSites(t)

	// A test, while the VM goes on.
	before := s.web.wrote()
	s.away.WaitDurable("web")
	s.away.Must("failover", "test", "web")
	a, _ := guestOf(t, failoverOf(t, s.away, "test")).counters(s.away)
	if a+1 < before {
		t.Errorf("the test found %d, %d were written and points before it", a, before)
	}
	s.away.Must("failover", "stop", "web")
	s.web.writes(s.away, s.web.wrote()+20)
	if g := s.away.Group("web"); g.State != api.StateProtected {
		t.Fatalf("after a test it is %s: %s", g.State, g.Reason)
	}

	// The disaster: first the network, so that there are writes that nobody else has; then the host.
	durable := s.web.wrote()
	s.away.WaitDurable("web")
	s.net.Proxy.Set(rig.Weather{How: rig.Cut})
	unsent := s.web.writes(s.away, s.web.wrote()+50)
	s.web.kill()
	s.agent.KillAll()

	// The failover.
	out := s.away.Must("failover", "start", "web")
	t.Logf("failed over:\n%s", out)
	if g := s.away.Group("web"); g.State != api.StateFailedOver {
		t.Errorf("it is %s", g.State)
	}
	moved := guestOf(t, failoverOf(t, s.away, "failover"))
	a, _ = moved.counters(s.away)
	if a+1 < durable || a >= unsent {
		t.Errorf("failed over to stamp %d; %d was durable, %d written", a, durable, unsent)
	}
	moved.writes(s.away, 20)
	s.away.Must("failover", "commit", "web", "--wait")
	s.away.WaitState("web", api.StateProtected)
	moved.writes(s.away, 20)
	s.away.WaitDurable("web")

	// The old site is back, with a hub of its own. Its agent hears that the group is not its any more; its disks are as they were.
	s.net.Proxy.Set(rig.Weather{})
	back := s.net.Back(t)
	home := rig.NewHubForAgents(t, back, nil)
	endVMs(t, home)
	s.agent.Start("--qmp-glob", filepath.Join(home.Data(), "run", "*", "*", "*.qmp"))
	old := map[string][]byte{"web/a": read(t, s.web.disk("a")), "web/b": read(t, s.web.disk("b"))}

	// Towards the old site, by the same way.
	rig.NewAgent(t, home, back, rig.AgentConfig{Name: "kvm2", Args: []string{"--qmp-glob", filepath.Join(s.away.Data(), "run", "*", "*", "*.qmp")}})
	home.WaitVM("web", "kvm2")
	s.away.Must("unprotect", "web", "--keep-history") // one tap at a time
	first := s.away.Group("web").FirstSeq
	carried := back.Proxy.Up() + back.Proxy.Down()
	home.Must("protect", "web", "--wait", "--seed", "web/a="+s.web.disk("a"), "--seed", "web/b="+s.web.disk("b"))
	home.WaitState("web", api.StateProtected)
	carried = back.Proxy.Up() + back.Proxy.Down() - carried
	t.Logf("%d bytes crossed for two disks of %d", carried, diskSize)
	if carried > diskSize/4 {
		t.Errorf("%d bytes crossed, though next to nothing has changed", carried)
	}
	seed := mounted(t, home, "web", "checkpoint:seed")
	for name, p := range old {
		if !bytes.Equal(seed[name], p) {
			t.Errorf("the old site's last state of %s, with what it had not sent, is not kept", name)
		}
	}

	// Home again, and not one write is lost.
	home.Must("failover", "start", "web", "--planned")
	f := failoverOf(t, home, "failover")
	if len(f.Notes) > 0 {
		t.Errorf("a planned failover notes %q", f.Notes)
	}
	again := guestOf(t, f)
	a, b := again.counters(home)
	if a != b {
		t.Errorf("the guest was shut down, and its disks have %d and %d", a, b)
	}
	again.writes(home, 20)
	home.Must("failover", "commit", "web", "--wait")
	home.WaitState("web", api.StateProtected)
	again.writes(home, 20)
	home.WaitDurable("web")

	// And protected as in the beginning, by the history that there is.
	s.away.Eventually("the agent at home has found the VM", time.Minute, func() error {
		var l api.VMs
		s.away.JSON(&l, "vm", "list")
		for _, v := range l.VMs {
			if v.Name == "web" && v.Agent == "kvm1" && v.Reachable {
				return nil
			}
		}
		return fmt.Errorf("the VMs are %+v", l)
	})
	home.Must("unprotect", "web", "--keep-history")
	s.away.Must("protect", "web", "--wait")
	if g := s.away.WaitState("web", api.StateProtected); g.FirstSeq != first || g.Agent != "kvm1" {
		t.Errorf("protected again, it is %+v", g)
	}
}
