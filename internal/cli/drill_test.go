package cli

import (
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rephub/rephub/internal/drill"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// makeGuest makes a real guest, which says "login:" on its serial line and its screen and has an agent; KERNEL and INITRD name its files: guest
func makeGuest(ts *testscript.TestScript, neg bool, args []string) {
	kernel, initrd, err := vmtest.Guest(ts.Getenv("WORK"))
	ts.Check(err)
	ts.Setenv("KERNEL", kernel)
	ts.Setenv("INITRD", initrd)
}

// backdate makes a group's drill due some minutes ago, as if it had been scheduled days before; no hub runs: backdate DATA/groups/NAME MINUTES
func backdate(ts *testscript.TestScript, neg bool, args []string) {
	s, err := drill.OpenStore(vfs.OS(), ts.MkAbs(args[0]))
	ts.Check(err)
	was, ok := s.Get()
	ago, err := time.ParseDuration(args[1] + "m")
	ts.Check(err)
	if !ok {
		ts.Fatalf("no drill is scheduled in %s", args[0])
	}
	due := time.Now().Add(-ago)
	ts.Check(s.Remove()) // and with it what was made by hand since
	ts.Check(s.Set(due.Format("15:04"), was.Checks, due.Add(-48*time.Hour)))
	s.Close()
}
