package interop

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/rephub/rephub/nbd"
)

// TestDirtyBitmap: our client reads a bitmap of a qcow2 image, beside its allocation.
func TestDirtyBitmap(t *testing.T) {
	image := filepath.Join(dir(t), "image")
	run(t, "qemu-img", "create", "-f", "qcow2", image, "8M")
	run(t, "qemu-img", "bitmap", "--add", "-g", "65536", image, "changes")
	run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 1 131072 1000", "-c", "write -P 1 4M 64k", image)
	socket := filepath.Join(dir(t), "s")
	start(t, socket, "qemu-nbd", "-t", "-e", "2", "-r", "-f", "qcow2", "-B", "changes", "-k", socket, image)
	const dirty = "qemu:dirty-bitmap:changes"
	c := dial(t, "nbd+unix:///?socket="+socket, nbd.DialOptions{Contexts: []string{nbd.ContextAllocation, dirty}})
	if !slices.Contains(c.Info().Contexts, dirty) {
		t.Fatalf("contexts %v", c.Info().Contexts)
	}
	got, err := c.BlockStatus(within(t), dirty, 0, 8<<20)
	want := []nbd.Extent{{Off: 0, Len: 131072}, {Off: 131072, Len: 65536, Flags: 1}, {Off: 196608, Len: 4<<20 - 196608},
		{Off: 4 << 20, Len: 65536, Flags: 1}, {Off: 4<<20 + 65536, Len: 4<<20 - 65536}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("bitmap %v, %v instead of %v", got, err, want)
	}
	if got, err = c.BlockStatus(within(t), nbd.ContextAllocation, 0, 8<<20); err != nil || len(got) != 6 || got[0].Flags != nbd.StateHole|nbd.StateZero || got[1].Flags != 0 {
		t.Errorf("allocation %v, %v", got, err)
	}
}
