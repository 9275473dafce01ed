package badinput

import (
	"fmt"
	"os"
	"testing"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/vm/vmtest"
	"github.com/rephub/rephub/nbd"
)

// tail writes to and reads the last 4 KiB of a disk.
func tail(t *testing.T, q *vmtest.QEMU, size int64, with byte) {
	t.Helper()
	vmtest.IO(t, q.GuestURI("disk0"), fmt.Sprintf("write -P %#x %d 4096", with, size-4096))
}

func tailReads(t *testing.T, uri string, size int64, with byte) {
	t.Helper()
	ctx := bounded(t)
	c, err := nbd.Dial(ctx, uri, nbd.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.Info().Size; got != size {
		t.Fatalf("%s has %d bytes, want %d", uri, got, size)
	}
	p := make([]byte, 4096)
	if err := c.ReadAt(ctx, p, size-4096); err != nil {
		t.Fatal(err)
	}
	for i, b := range p {
		if b != with {
			t.Fatalf("byte %d before the end is %#x, want %#x", 4096-i, b, with)
		}
	}
}

// A volume may get another size while the group is paused, and between two runs
// of its VM. Points before keep the size they had.
func TestVolumeThatChangesItsSize(t *testing.T) {
	const small, large, larger, less = 8 << 20, 20 << 20, 40<<20 + 512, 12 << 20
	h := rig.NewHub(t)
	q := protect(t, h, "vm")
	points := map[uint64]struct {
		size int64
		end  byte
	}{}
	note := func(size int64, with byte) {
		t.Helper()
		g := h.WaitState("vm", api.StateProtected)
		if g.Volumes[0].Size != size {
			t.Errorf("the status says %d bytes, want %d", g.Volumes[0].Size, size)
		}
		tail(t, q, size, with)
		points[h.WaitDurable("vm")] = struct {
			size int64
			end  byte
		}{size, with}
	}
	note(small, 0x11)
	if err := q.Do("block_resize", map[string]any{"node-name": "disk0", "size": large}, nil); err == nil {
		t.Error("QEMU resizes under a tap, which this test takes to be impossible")
	}

	h.Must("pause", "vm")
	q.Must("block-export-del", map[string]any{"id": "guest-disk0", "mode": "hard"}, nil)
	q.Must("block_resize", map[string]any{"node-name": "disk0", "size": large}, nil)
	q.Must("block-export-add", map[string]any{"type": "nbd", "id": "guest2-disk0", "node-name": "disk0", "name": "disk0", "writable": true}, nil)
	tail(t, q, large, 0x21) // while nobody records
	h.Must("resume", "vm", "--wait")
	m := h.Mount("vm", "latest")
	tailReads(t, m.Volumes[0].URI, large, 0x21)
	h.Must("unmount", m.ID)
	note(large, 0x22)

	for _, size := range []int64{larger, less} {
		q.Kill()
		if err := os.Truncate(q.Image("disk0"), size); err != nil {
			t.Fatal(err)
		}
		q.Restart()
		h.Eventually("the VM is followed again", patience, func() error {
			if g := h.Group("vm"); g.State != api.StateProtected || g.Volumes[0].Size != size {
				return fmt.Errorf("%s, %d bytes: %s", g.State, g.Volumes[0].Size, g.Reason)
			}
			return nil
		})
		note(size, byte(0x30+len(points)))
	}
	h.Kill()
	h.Start()
	for seq, want := range points {
		m := h.Mount("vm", fmt.Sprintf("seq:%d", seq))
		tailReads(t, m.Volumes[0].URI, want.size, want.end)
		h.Must("unmount", m.ID)
	}
}
