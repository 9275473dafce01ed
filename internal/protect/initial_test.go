package protect

import (
	"slices"
	"testing"

	"github.com/rephub/rephub/internal/vm/vmtest"
)

// What a VM wrote during its initial sync is in the journal and overrides the
// base. When the VM dies before the sync ends, it may be older than what the
// next instance has.
func TestInitialSyncOfAnotherInstance(t *testing.T) {
	s := newSite(t)
	s.noBase = true
	q := vmtest.Start(t, vmtest.Config{})
	g := s.start(q)
	g.until("the taps are there", func(st Status) bool { return st.State == StateSyncing })
	before := g.log.Appended()
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 1 1M 64k")
	eventually(t, "the write is in the journal", func() bool { return g.log.Appended() > before })
	g.end()
	q.Kill()
	q.Restart()
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 2 1M 64k")
	s.noBase = false
	g = s.start(q)
	g.reach(StateProtected)
	g.equal(q)
}

// Syncs that fail again and again must not fill the VM with dirty bitmaps.
func TestFailingSyncsMakeNoMoreBitmaps(t *testing.T) {
	s := newSite(t)
	s.noBase = true
	q := vmtest.Start(t, vmtest.Config{})
	g := s.start(q)
	g.until("the taps are there", func(st Status) bool { return st.State == StateSyncing })
	eventually(t, "the sync is tried again", func() bool { return g.replica.tries.Load() > 4 })
	if n := bitmaps(q); n > 2 {
		t.Errorf("%d dirty bitmaps after a sync that failed some times, want the frozen and the recording one", n)
	}
}

// Nor do syncs that are cut off by one loss after the other.
func TestBitmapsAreLimited(t *testing.T) {
	s := newSite(t)
	s.noBase = true
	q := vmtest.Start(t, vmtest.Config{})
	g := s.start(q)
	for range maxFrozen + 4 {
		tries := g.replica.tries.Load()
		eventually(t, "a sync is tried", func() bool { return g.replica.tries.Load() > tries })
		if err := g.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.resumeFailing()
	}
	if n := bitmaps(q); n > maxFrozen+1 {
		t.Errorf("%d dirty bitmaps after syncs that did not end", n)
	}
	if err := g.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 5 1M 64k")
	g.end()
	s.noBase = false
	g = s.start(q)
	g.reach(StateProtected)
	g.equal(q)
}

// bitmaps counts the volumes' dirty bitmaps.
func bitmaps(q *vmtest.QEMU) (n int) {
	var nodes []struct {
		Name    string                  `json:"node-name"`
		Bitmaps []struct{ Name string } `json:"dirty-bitmaps"`
	}
	q.Must("query-named-block-nodes", nil, &nodes)
	for _, node := range nodes {
		if !slices.Contains(q.Nodes(), node.Name) {
			continue
		}
		for _, b := range node.Bitmaps {
			if b.Name != "" { // the mirror's own has none
				n++
			}
		}
	}
	return n
}
