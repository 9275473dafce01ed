package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/api"
)

// An initial sync goes on where it was, whoever dies or is cut off meanwhile, and
// under a load.
func TestInitialSyncGoesOn(t *testing.T) {
	const size, rate = 128 << 20, 6 << 20 // bytes, and per second
	m := newMeter(t, size)
	load, err := rig.StartChains(chains, m.q.GuestURI("disk0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := load.Stop(); err != nil {
			t.Errorf("the load met an I/O error: %v", err)
		}
	})
	m.net.Proxy.Set(rig.Weather{Rate: rate})
	m.hub.Must("protect", "vm", "--group", "vm")
	for i, fault := range []func(){
		func() { m.net.Proxy.Set(rig.Weather{How: rig.Cut}) },
		func() { m.hub.Kill(); m.hub.Start() },
		func() { m.agent.Kill(); m.agent.Start() },
	} {
		m.copied(int64(i+1) * size / 5)
		fault()
		moreWrites(t, m.hub, load, 200)
		m.net.Proxy.Set(rig.Weather{Rate: rate})
	}
	m.copied(size * 4 / 5)
	m.net.Proxy.Set(rig.Weather{})
	m.hub.WaitState("vm", api.StateProtected)
	if err := load.Stop(); err != nil {
		t.Fatal(err)
	}
	m.protected(0)
	m.equal()
	g := m.hub.Group("vm")
	for i := range uint64(4) {
		mount := m.hub.Mount("vm", fmt.Sprintf("seq:%d", g.FirstSeq+(g.DurableSeq-g.FirstSeq)*i/3))
		if _, err := rig.VerifyChains(t.Context(), chains, mount.Volumes[0].URI); err != nil {
			t.Errorf("point %d: %v", mount.Seq, err)
		}
		m.hub.Must("unmount", mount.ID)
	}
	t.Logf("%d bytes crossed the network for a volume of %d", m.bytes(), size)
	if m.bytes() > 2*size { // what three faults cost if all is copied again is more
		t.Errorf("%d bytes crossed the network for a volume of %d: it was begun anew", m.bytes(), size)
	}
}

// copied waits until so much of the volume was copied, or more.
func (m *meter) copied(n int64) {
	m.t.Helper()
	m.hub.Eventually(fmt.Sprintf("%d bytes are copied", n), time.Minute, func() error {
		g := m.hub.Group("vm")
		if s := g.Volumes[0].Sync; s != nil && s.DoneBytes >= n || g.State == api.StateProtected {
			return nil
		}
		return fmt.Errorf("it is %s (%s), %+v", g.State, g.Reason, g.Volumes[0].Sync)
	})
}
