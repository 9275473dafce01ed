package interop

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/rephub/rephub/nbd"
)

// TestQemuNbd: our client reads, writes, zeroes and trims an image behind qemu-nbd, over several connections.
func TestQemuNbd(t *testing.T) {
	want := sparse(8<<20, 4)
	socket := filepath.Join(dir(t), "s")
	start(t, socket, "qemu-nbd", "-t", "-e", "4", "-f", "raw", "-x", "disk", "-k", socket, write(t, "image", want))
	p, err := nbd.DialPool(within(t), "nbd+unix:///disk?socket="+socket, 3, nbd.DialOptions{Contexts: []string{nbd.ContextAllocation}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Len() != 3 {
		t.Errorf("%d connections", p.Len())
	}
	got := make([]byte, len(want))
	if err := p.ReadAt(within(t), got, 0); err != nil {
		t.Fatal(err)
	}
	same(t, got, want)
	clear(want[1<<20 : 2<<20])
	copy(want[3:], "hello")
	if err := errors.Join(p.Zero(within(t), 1<<20, 1<<20, 0), p.WriteAt(within(t), []byte("hello"), 3, nbd.FlagFUA), p.Trim(within(t), 7<<20, 4096, 0),
		p.Cache(within(t), 0, 4096), p.Flush(within(t))); err != nil {
		t.Fatal(err)
	}
	if err := p.ReadAt(within(t), got, 0); err != nil {
		t.Fatal(err)
	}
	clear(want[7<<20 : 7<<20+4096])
	clear(got[7<<20 : 7<<20+4096]) // trimmed: undefined
	same(t, got, want)
	list, err := p.BlockStatus(within(t), nbd.ContextAllocation, 1<<20, 1<<20)
	if err != nil || list[0].Flags&nbd.StateZero == 0 {
		t.Errorf("zeroes are reported as %v, %v", list, err)
	}
	if _, err := nbd.Dial(within(t), "nbd+unix:///other?socket="+socket, nbd.DialOptions{}); !errors.Is(err, nbd.ErrUnknownExport) {
		t.Errorf("unknown export: %v", err)
	}
}
