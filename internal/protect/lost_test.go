package protect

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rephub/rephub/internal/vm/vmtest"
)

// A disk that forgot the end of the journal, which the ring had given up for it,
// costs a sync and no more.
func TestJournalLostItsEnd(t *testing.T) {
	for name, after := range map[string][]string{
		"and the VM writes on": {"write -P 7 5M 64k"},
		"and the VM is idle":   nil,
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			q := vmtest.Start(t, vmtest.Config{})
			g := s.start(q)
			g.reach(StateProtected)
			vmtest.IO(t, q.GuestURI("disk0"), "write -P 5 1M 64k")
			g.equal(q)
			g.end()
			journal, before := filepath.Join(s.dir, "journal"), filepath.Join(t.TempDir(), "before")
			if err := os.CopyFS(before, os.DirFS(journal)); err != nil {
				t.Fatal(err)
			}
			g = s.start(q)
			g.reach(StateProtected)
			vmtest.IO(t, q.GuestURI("disk0"), "write -P 6 3M 64k")
			g.equal(q)
			g.end()
			if err := os.RemoveAll(journal); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(journal, os.DirFS(before)); err != nil {
				t.Fatal(err)
			}
			if after != nil {
				vmtest.IO(t, q.GuestURI("disk0"), after...)
			}
			g = s.start(q)
			g.reach(StateProtected)
			g.equal(q)
		})
	}
}
