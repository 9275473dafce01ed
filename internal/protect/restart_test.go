package protect

import (
	"bytes"
	"io"
	"os"
	"testing"

	"github.com/rephub/rephub/internal/vm/vmtest"
	"github.com/rephub/rephub/journal"
)

// lastSync is the kind of the volume's sync that ended last.
func (r *running) lastSync(id journal.VolumeID) (kind string) {
	r.t.Helper()
	err := r.replica.log.Scan(0, func(h journal.Header, payload func() ([]byte, error)) error {
		if h.Op != journal.OpSyncEnd {
			return nil
		}
		p, err := payload()
		if err != nil {
			return err
		}
		c, err := journal.DecodeControl(h.Op, p)
		if end, ok := c.(journal.SyncEnd); ok && end.Volume == id {
			kind = end.Kind
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return kind
}

// holds waits until the newest point has n bytes of a value at off.
func (r *running) holds(id journal.VolumeID, off int64, n int, value byte) {
	r.t.Helper()
	got := make([]byte, n)
	eventually(r.t, "the newest point has the write", func() bool {
		s := r.Status()
		if s.State != StateProtected || s.Durable != s.Last {
			return false
		}
		if _, err := r.replica.at(id, s.Durable).ReadAt(got, off); err != nil && err != io.EOF {
			r.t.Fatal(err)
		}
		return bytes.Equal(got, bytes.Repeat([]byte{value}, n))
	})
}

// A qcow2 image keeps the dirty bitmap over a clean stop, so that nothing has to
// be compared; what was written before the tap is back is in it. An older copy of
// the image comes with an older bitmap, which is not believed.
func TestCleanRestart(t *testing.T) {
	s := newSite(t)
	q := vmtest.Start(t, vmtest.Config{Disks: []vmtest.Disk{{Node: "cow", Format: "qcow2"}, {Node: "raw"}}})
	g := s.start(q)
	g.reach(StateProtected)
	vmtest.IO(t, q.GuestURI("cow"), "write -P 5 1M 64k")
	g.holds(1, 1<<20, 64<<10, 5)
	restart := func(meanwhile func()) {
		t.Helper()
		q.Quit()
		g.reach(StateDegraded)
		meanwhile()
		q.Restart()
		vmtest.IO(t, q.GuestURI("raw"), "write -P 2 8M 4k")
		g.reach(StateProtected)
	}
	var old []byte
	restart(func() {
		var err error
		if old, err = os.ReadFile(q.Image("cow")); err != nil {
			t.Fatal(err)
		}
	})
	if cow, raw := g.lastSync(1), g.lastSync(2); cow != "bitmap" || raw != "compare" {
		t.Errorf("after a clean restart qcow2 had a %s sync, raw had a %s sync", cow, raw)
	}
	vmtest.IO(t, q.GuestURI("cow"), "write -P 6 1M 64k", "write -P 7 9M 4k")
	g.holds(1, 9<<20, 4<<10, 7)
	restart(func() {
		if err := os.WriteFile(q.Image("cow"), old, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	if kind := g.lastSync(1); kind != "compare" {
		t.Errorf("after an older copy was put in place there was a %s sync", kind)
	}
	g.holds(1, 1<<20, 64<<10, 5)
	g.holds(1, 9<<20, 4<<10, 0)
}
