package protect

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vm/vmtest"
	"github.com/rephub/rephub/journal"
)

// equal waits until the newest point holds what the images hold. Nobody may be
// writing, but a write of a load just killed may still be on its way.
func (r *running) equal(vms ...*vmtest.QEMU) {
	r.t.Helper()
	diff := ""
	defer func() {
		if r.t.Failed() {
			r.t.Log(diff)
		}
	}()
	eventually(r.t, "the newest point equals the source", func() bool {
		s := r.Status()
		if s.State != StateProtected || s.Durable != s.Last {
			return false
		}
		id := journal.VolumeID(0)
		for _, q := range vms {
			for _, node := range q.Nodes() {
				id++
				if diff = r.diff(id, s.Durable, q.Image(node)); diff != "" {
					return false
				}
			}
		}
		return true
	})
}

// diff is where a volume at a seq differs from an image, "" when nowhere.
func (r *running) diff(id journal.VolumeID, at journal.Seq, image string) string {
	r.t.Helper()
	f, err := os.Open(image)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	view := r.replica.at(id, at)
	want, got := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < view.Size(); off += int64(len(want)) {
		n := min(int64(len(want)), view.Size()-off)
		if _, err := f.ReadAt(want[:n], off); err != nil && err != io.EOF {
			r.t.Fatal(err)
		}
		if _, err := view.ReadAt(got[:n], off); err != nil {
			r.t.Fatal(err)
		}
		if !bytes.Equal(want[:n], got[:n]) {
			i := int64(0)
			for want[i] == got[i] {
				i++
			}
			return fmt.Sprintf("volume %d at seq %d differs from its source at byte %d", id, at, off+i)
		}
	}
	return ""
}

func TestProtect(t *testing.T) {
	s := newSite(t)
	q := vmtest.Start(t, vmtest.Config{Disks: []vmtest.Disk{{Node: "a"}, {Node: "b"}}})
	vmtest.IO(t, q.GuestURI("a"), "write -P 7 1M 3M", "write -P 9 40M 64k")
	load := vmtest.Load(t, q.GuestURI("b"), 8)
	g := s.start(q)
	g.reach(StateProtected)
	load.Kill()
	vmtest.IO(t, q.GuestURI("a"), "write -P 3 2M 4k", "write -z 40M 32k", "write -P 1 512 512")
	g.equal(q)
	if n := len(g.Status().Ranges); n != 1 {
		t.Errorf("%d ranges of points, want 1", n)
	}
}

// A VM that may use no unix socket of ours reaches its tap over TCP, also after
// the hub, or agent, has been restarted.
func TestTapOverTCP(t *testing.T) {
	s := newSite(t)
	s.cfg.TapTCP = true
	q := vmtest.Start(t, vmtest.Config{})
	g := s.start(q)
	g.reach(StateProtected)
	g.end()
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 5 1M 1M")
	g = s.start(q)
	g.reach(StateProtected)
	g.equal(q)
	var nodes []struct {
		Image struct {
			File string `json:"filename"`
		} `json:"image"`
	}
	q.Must("query-named-block-nodes", nil, &nodes)
	for _, n := range nodes {
		if strings.HasPrefix(n.Image.File, "nbd://127.0.0.1:") {
			return
		}
	}
	t.Errorf("no tap is on TCP: %+v", nodes)
}

func TestHubRestartGoesOn(t *testing.T) {
	s := newSite(t)
	q := vmtest.Start(t, vmtest.Config{})
	g := s.start(q)
	g.reach(StateProtected)
	epoch := g.Status().Epoch
	g.end()
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 5 1M 1M")
	g = s.start(q)
	g.reach(StateProtected)
	g.equal(q)
	if now := g.Status().Epoch; now != epoch {
		t.Errorf("epoch %d after a restart that missed nothing, want %d", now, epoch)
	}
}

func TestPauseAndResume(t *testing.T) {
	s := newSite(t)
	q := vmtest.Start(t, vmtest.Config{})
	g := s.start(q)
	g.reach(StateProtected)
	before := g.Status().Durable
	if err := g.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 5 1M 1M", "write -P 6 33M 4k")
	if err := g.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.reach(StateProtected)
	g.equal(q)
	st := g.Status()
	if len(st.Ranges) != 2 || !st.Ranges[0].Contains(before) {
		t.Errorf("points are %v: the old ones up to %d must stay", st.Ranges, before)
	}
}

// A sync that reads while the VM writes the same blocks must not put old data
// over new.
func TestResyncUnderLoad(t *testing.T) {
	s := newSite(t)
	q := vmtest.Start(t, vmtest.Config{Disks: []vmtest.Disk{{Node: "small", Size: 4 << 20, Delay: 5 * time.Millisecond}}})
	g := s.start(q)
	g.reach(StateProtected)
	load := vmtest.Load(t, q.GuestURI("small"), 16)
	for range 5 {
		if err := g.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := g.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.reach(StateProtected)
	}
	load.Kill()
	g.equal(q)
}

func TestRingFullGoesVoidAndComesBack(t *testing.T) {
	s := newSite(t)
	s.cfg.RingSize = 1 << 20
	q := vmtest.Start(t, vmtest.Config{})
	g := s.start(q)
	g.reach(StateProtected)
	g.end() // nobody drains
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 5 0 8M", "write -P 6 20M 1M")
	g = s.start(q)
	g.reach(StateProtected)
	g.equal(q)
}

func TestKeeperKilled(t *testing.T) {
	s := newSite(t)
	q := vmtest.Start(t, vmtest.Config{Disks: []vmtest.Disk{{Node: "a"}, {Node: "b"}}})
	g := s.start(q)
	g.reach(StateProtected)
	load := vmtest.Load(t, q.GuestURI("a"), 1)
	kill(t, s.pid)
	g.until("the loss is seen", func(st Status) bool { return st.State != StateProtected })
	g.reach(StateProtected)
	load.Kill()
	g.equal(q)
	if !q.Alive() {
		t.Error("QEMU died")
	}
}

func TestQEMURestarted(t *testing.T) {
	s := newSite(t)
	q := vmtest.Start(t, vmtest.Config{})
	g := s.start(q)
	g.reach(StateProtected)
	load := vmtest.Load(t, q.GuestURI("disk0"), 4)
	g.until("writes arrive", func(st Status) bool { return st.Last > 100 })
	q.Kill()
	load.Wait()
	g.reach(StateDegraded)
	q.Restart()
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 5 3M 1M")
	g.reach(StateProtected)
	g.equal(q)
}

func kill(t *testing.T, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
}
