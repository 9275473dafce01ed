package protect

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// A journal that lost its tail with the disk's cache, while the keeper lived on
// and had given the ring's entries up, is followed by a new epoch and a compare.
func TestJournalLostItsTail(t *testing.T) {
	s := newSite(t)
	q := vmtest.Start(t, vmtest.Config{})
	g := s.start(q)
	g.reach(StateProtected)
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 1 1M 64k", "write -P 2 2M 64k", "write -P 3 3M 64k")
	g.equal(q)
	g.end()
	name := filepath.Join(s.dir, "journal", "000000000001.rhj")
	p, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	// Cut before the last batch of writes.
	cut := 0
	for at := int(binary.LittleEndian.Uint32(p[8:])); at < len(p); at += 128 + int(binary.LittleEndian.Uint64(p[at+40:])) {
		if p[at+6] == 1 {
			cut = at
		}
	}
	if cut == 0 {
		t.Fatal("no batch of writes")
	}
	if err := os.Truncate(name, int64(cut)); err != nil {
		t.Fatal(err)
	}
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 4 4M 64k")
	g = s.start(q)
	g.reach(StateProtected)
	g.equal(q)
}

// A monitor that is lost while it is asked whether the taps are whole says nothing
// about them: recording goes on, and no epoch ends.
func TestMonitorLostWhileAsked(t *testing.T) {
	s := newSite(t)
	q := vmtest.Start(t, vmtest.Config{})
	g := s.start(q)
	g.reach(StateProtected)
	g.end()
	epoch := s.epoch
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 4 4M 64k")
	var asked atomic.Int32
	s.wrap = func(v vm.VM) vm.VM { return &gropingVM{v, &asked} }
	g = s.start(q)
	g.reach(StateProtected)
	g.equal(q)
	if asked.Load() < 3 || s.epoch != epoch {
		t.Errorf("asked %d times; epoch %d was followed by %d", asked.Load(), epoch, s.epoch)
	}
}

// gropingVM loses its monitor at the first two fences.
type gropingVM struct {
	vm.VM
	asked *atomic.Int32
}

func (l *gropingVM) CheckFence(ctx context.Context, taps []vm.Tap) (vm.RunState, error) {
	if l.asked.Add(1) <= 2 {
		return "", fmt.Errorf("%w: for the test", vm.ErrLost)
	}
	return l.VM.CheckFence(ctx, taps)
}
