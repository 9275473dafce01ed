package protect

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// A hub killed after the first point was durable and before the memo said that
// the base is complete does not copy over that point.
func TestSyncSparesTheFirstPoints(t *testing.T) {
	s := newSite(t)
	q := vmtest.Start(t, vmtest.Config{})
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 1 0 8M")
	g := s.start(q)
	g.reach(StateProtected)
	g.equal(q)
	point, spec := g.Status().Durable, g.Spec()
	before := filepath.Join(t.TempDir(), "before")
	image, err := os.ReadFile(q.Image("disk0"))
	if err == nil {
		err = os.WriteFile(before, image, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	g.end()
	q.Kill()
	m, err := loadMemo(vfs.OS(), s.dir, spec.Volumes)
	if err != nil {
		t.Fatal(err)
	}
	noted := m.volume(1)
	noted.Need = needFull
	if err := m.setNeed(1, noted); err != nil {
		t.Fatal(err)
	}
	q.Restart()
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 2 1M 4M")
	g = s.start(q)
	g.reach(StateProtected)
	g.equal(q)
	if diff := g.diff(1, point, before); diff != "" {
		t.Errorf("the first point changed: %s", diff)
	}
}

// A damaged memo costs a compare: neither the points nor what they show.
func TestDamagedMemo(t *testing.T) {
	s := newSite(t)
	q := vmtest.Start(t, vmtest.Config{})
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 1 0 8M")
	g := s.start(q)
	g.reach(StateProtected)
	g.equal(q)
	point := g.Status().Durable
	image, err := os.ReadFile(q.Image("disk0"))
	if err != nil {
		t.Fatal(err)
	}
	before := filepath.Join(t.TempDir(), "before")
	if err := os.WriteFile(before, image, 0o600); err != nil {
		t.Fatal(err)
	}
	g.end()
	if err := os.WriteFile(filepath.Join(s.dir, memoFile), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 2 1M 4M")
	g = s.start(q)
	g.reach(StateProtected)
	g.equal(q)
	if diff := g.diff(1, point, before); diff != "" {
		t.Errorf("the first point changed: %s", diff)
	}
}
