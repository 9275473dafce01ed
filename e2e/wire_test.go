package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/vm/vmtest"
	"github.com/rephub/rephub/nbd"
)

const (
	wireSize  = 256 << 20 // bytes of the volume
	wireBlock = 4 << 10
	wireChunk = 64 << 10 // of a dirty bitmap
	ringSize  = 256 << 20
)

// meter is a VM without a load, behind an agent with a small spool, and counts
// what crosses the network.
type meter struct {
	t     *testing.T
	rng   *rand.Rand
	net   *rig.Network
	hub   *rig.Hub
	agent *rig.Agent
	q     *vmtest.QEMU
	size  int64   // of its volume, nearly all of it random
	idle  float64 // bytes per second while nothing happens
}

func newMeter(t *testing.T, size int64) *meter {
	t.Helper()
	m := &meter{t: t, rng: rand.New(rand.NewPCG(seed(t), 0)), net: rig.NewNetwork(t), size: size}
	m.hub = rig.NewHubForAgents(t, m.net, nil)
	dir := rig.NewTmpfs(t, 2*size).Folder("vm")
	image, err := os.Create(filepath.Join(dir, "disk0.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	const blank = 1 << 20 // at the beginning, for chains
	if _, err := image.Seek(blank, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(image, rand.NewChaCha8([32]byte{byte(m.rng.Uint32())}), size-blank); err != nil {
		t.Fatal(err)
	}
	m.q = vmtest.Start(t, vmtest.Config{Dir: dir, Disks: []vmtest.Disk{{Size: size}}})
	m.agent = rig.NewAgent(t, m.hub, m.net, rig.AgentConfig{Name: "kvm1", VMs: []*vmtest.QEMU{m.q}, Args: []string{"--spool-size", fmt.Sprint(smallSpool)}})
	m.hub.WaitVM("vm", "kvm1")
	return m
}

// protected waits until the group is in an epoch, or a later one, and its last
// write a point.
func (m *meter) protected(epoch uint64) {
	m.t.Helper()
	m.hub.Eventually(fmt.Sprintf("protected in epoch %d", epoch), time.Minute, func() error {
		if g := m.hub.Group("vm"); g.State != api.StateProtected || g.Epoch < epoch || g.DurableSeq < g.LastSeq {
			return fmt.Errorf("%s (%s) in epoch %d, point %d of %d", g.State, g.Reason, g.Epoch, g.DurableSeq, g.LastSeq)
		}
		return nil
	})
}

func (m *meter) bytes() int64 { return m.net.Proxy.Up() + m.net.Proxy.Down() }

// measureIdle counts for a while what an idle connection needs.
func (m *meter) measureIdle() {
	m.t.Helper()
	began, was := time.Now(), m.bytes()
	m.hub.Eventually("some idle seconds are over", time.Minute, func() error {
		if time.Since(began) < 3*time.Second {
			return fmt.Errorf("they began at %s", began)
		}
		return nil
	})
	m.idle = float64(m.bytes()-was) / time.Since(began).Seconds()
	m.t.Logf("an idle connection carries %.0f bytes per second", m.idle)
}

// spent is what crosses the network for do, without what it is idle for.
func (m *meter) spent(do func()) int64 {
	m.t.Helper()
	began, was := time.Now(), m.bytes()
	do()
	return m.bytes() - was - int64(m.idle*time.Since(began).Seconds())
}

// blocks are n different blocks of the volume's second half, each in a chunk of
// its own.
func (m *meter) blocks(n int) []int64 {
	var list []int64
	for _, chunk := range m.rng.Perm(wireSize / 2 / wireChunk)[:n] {
		list = append(list, wireSize/2+int64(chunk)*wireChunk+m.rng.Int64N(wireChunk/wireBlock)*wireBlock)
	}
	return list
}

func (m *meter) random() []byte {
	p := make([]byte, wireBlock)
	for i := range p {
		p[i] = byte(m.rng.Uint32())
	}
	return p
}

// sum reads a point of the volume through a mount.
func (m *meter) sum(at string) [sha256.Size]byte {
	m.t.Helper()
	mount := m.hub.Mount("vm", at)
	defer m.hub.Must("unmount", mount.ID)
	p := make([]byte, m.size)
	if err := readAll(mount.Volumes[0].URI, p); err != nil {
		m.t.Fatal(err)
	}
	return sha256.Sum256(p)
}

// equal checks that the newest point is what the volume holds.
func (m *meter) equal() {
	m.t.Helper()
	p := make([]byte, m.size)
	if err := readAll(m.q.GuestURI("disk0"), p); err != nil {
		m.t.Fatal(err)
	}
	if m.sum("latest") != sha256.Sum256(p) {
		m.t.Error("the newest point differs from the volume")
	}
}

// synced checks which syncs the agent has made since its log was so long.
func (m *meter) synced(since int, kind string) {
	m.t.Helper()
	log := m.agent.Log()[since:]
	if n, of := strings.Count(log, `msg="volume synced"`), strings.Count(log, "kind="+kind); n != 1 || of != 1 {
		m.t.Errorf("there were %d syncs, %d of them a %s sync", n, of, kind)
	}
}

// Traffic follows what changed, not what was written or how large the volume is.
func TestAgentWire(t *testing.T) {
	m := newMeter(t, wireSize)
	m.hub.Must("protect", "vm", "--group", "vm", "--wait")
	m.protected(0)
	m.measureIdle()
	old := fmt.Sprintf("seq:%d", m.hub.Group("vm").DurableSeq)
	sum := m.sum(old)
	t.Run("compare", m.compare)
	t.Run("bitmap", m.bitmap)
	if m.sum(old) != sum {
		t.Error("the first point has changed")
	}
}

// compare: a VM has crashed, and its volume was changed before it was started again.
func (m *meter) compare(t *testing.T) {
	const changed = 300
	g, log := m.hub.Group("vm"), len(m.agent.Log())
	wire := m.spent(func() {
		m.q.Kill()
		f, err := os.OpenFile(m.q.Image("disk0"), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, off := range m.blocks(changed) {
			if _, err := f.WriteAt(m.random()[:512], off+512*m.rng.Int64N(8)); err != nil {
				t.Fatal(err)
			}
		}
		m.q.Restart()
		m.protected(g.Epoch + 1)
	})
	m.synced(log, "compare")
	m.equal()
	limit := int64(wireSize/1000 + changed*wireBlock)
	t.Logf("%d blocks differ: %d bytes on the wire, of %d", changed, wire, limit)
	if wire > limit {
		t.Errorf("%d bytes are more than %d", wire, limit)
	}
}

// bitmap: the network was cut until spool and ring were full, and for some writes
// more.
func (m *meter) bitmap(t *testing.T) {
	const changed, rewritten, flood = 300, 1000, 64 << 20
	load, err := rig.ContinueChains(nil, m.q.GuestURI("disk0"))
	if err != nil {
		t.Fatal(err)
	}
	defer load.Stop()
	write := func(total int64) {
		if err := load.Flood(0, 0, total); err != nil {
			t.Fatal(err)
		}
	}
	write(flood) // so that the next change only a few blocks
	m.hub.WaitDurable("vm")
	shipping := m.spent(func() { write(flood); m.hub.WaitDurable("vm") })
	// What spool and ring have taken is shipped as well. It compresses well.
	shipping = shipping * (smallSpool + ringSize) / flood

	g, log := m.hub.Group("vm"), len(m.agent.Log())
	m.net.Proxy.Set(rig.Weather{How: rig.Cut})
	write(smallSpool + ringSize + flood)
	m.scatter(t, changed, rewritten)
	wire := m.spent(func() {
		m.net.Proxy.Set(rig.Weather{})
		m.protected(g.Epoch + 1)
	}) - shipping
	m.synced(log, "bitmap")
	m.equal()
	const floods = 4 // blocks of Flood that differ in the end
	limit := int64((changed+floods)*wireBlock*11/10 + wireChunk*(changed+rewritten+64)/100)
	t.Logf("%d blocks differ in %d chunks: %d bytes on the wire, of %d, and %d for what was shipped before",
		changed+floods, changed+rewritten+64, wire, limit, shipping)
	if wire > limit {
		t.Errorf("%d bytes are more than %d", wire, limit)
	}
}

// scatter writes other data to some blocks, and to some what they hold.
func (m *meter) scatter(t *testing.T, changed, rewritten int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := nbd.Dial(ctx, m.q.GuestURI("disk0"), nbd.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := make([]byte, wireBlock)
	for i, off := range m.blocks(changed + rewritten) {
		if err := c.ReadAt(ctx, p, off); err != nil {
			t.Fatal(err)
		}
		if i < changed {
			copy(p, m.random())
		}
		if err := c.WriteAt(ctx, p, off, 0); err != nil {
			t.Fatal(err)
		}
	}
}
