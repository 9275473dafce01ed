package badinput

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/nbd"
)

// found is a thing in a journal's file.
type found struct {
	file   string // path
	offset int64
	seq    uint64
}

// lookFor reads what the journal of a group holds and returns the first line
// that fits, with its file.
func lookFor(t *testing.T, h *rig.Hub, group string, fits func(kind, op string, batch string, seq uint64) bool) found {
	t.Helper()
	dir := filepath.Join(h.Data(), "groups", group)
	d := json.NewDecoder(strings.NewReader(h.Must("journal", "dump", dir, "-o", "json")))
	file := ""
	for d.More() {
		var l struct {
			Kind, File, Op, Batch string
			Offset                int64
			Seq                   uint64
		}
		if err := d.Decode(&l); err != nil {
			t.Fatal(err)
		}
		if l.Kind == "segment" {
			file = l.File
		}
		if fits(l.Kind, l.Op, l.Batch, l.Seq) {
			return found{file, l.Offset, l.Seq}
		}
	}
	t.Fatal("the journal has nothing that fits")
	return found{}
}

// flip inverts some bits of a byte of a file.
func flip(t *testing.T, file string, off int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x5a
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
}

// names fails unless the check of a group's journal finds damage at a byte.
func names(t *testing.T, h *rig.Hub, group string, file string, off int64) {
	t.Helper()
	dir := filepath.Join(h.Data(), "groups", group)
	out, _ := h.CLI("journal", "check", dir, "-o", "json") // how it fails is asked below
	fails(t, h, damaged, []string{"damaged"}, "journal", "check", dir)
	var r struct {
		Findings []struct {
			File    string
			Offset  int64
			Len     int64
			Torn    bool
			Problem string
		}
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, f := range r.Findings {
		if f.File == file && !f.Torn && f.Offset <= off && off < f.Offset+max(f.Len, 1) {
			return
		}
	}
	t.Errorf("byte %d of %s is damaged, and the check says %+v", off, file, r.Findings)
}

// flippedHub is a hub with the groups bad and good that has ended in order. Of
// bad, the first 512 KiB were written twice: 0x11 up to the seq first, then
// 0x22. If sealed, the segment with these writes was followed by others.
func flippedHub(t *testing.T, sealed bool) (h *rig.Hub, first, second uint64, again func(with byte)) {
	t.Helper()
	h = rig.NewHub(t)
	bad, good := protect(t, h, "bad"), protect(t, h, "good")
	first = put(t, h, bad, "bad", "disk0", 512<<10, 0x11)
	second = put(t, h, bad, "bad", "disk0", 512<<10, 0x22)
	for i := 0; sealed && i < 9; i++ { // 8 MiB each time
		second = put(t, h, bad, "bad", "disk0", 8<<20, 0x22)
	}
	h.Stop()
	return h, first, second, func(with byte) { works(t, h, good, "good", with) }
}

// What is damaged in a sealed segment concerns those who read just that, and
// nobody else.
func TestFlippedByteOfOldData(t *testing.T) {
	h, first, second, goodWorks := flippedHub(t, true)
	// Data at 128 KiB, of the third of the writes that made the first point.
	at := lookFor(t, h, "bad", func(kind, op, batch string, seq uint64) bool {
		return kind == "entry" && op == "write" && seq == first-5
	})
	flip(t, at.file, at.offset+48+1000)
	names(t, h, "bad", at.file, at.offset+48+1000)
	h.Start()
	goodWorks(0x33)

	m := h.Mount("bad", fmt.Sprintf("seq:%d", second))
	reads(t, m.Volumes[0].URI, 8<<20, 512<<10, 0x22)
	h.Must("unmount", m.ID)
	m = h.Mount("bad", fmt.Sprintf("seq:%d", first))
	ctx := bounded(t)
	c, err := nbd.Dial(ctx, m.Volumes[0].URI, nbd.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := make([]byte, 512<<10)
	if err := c.ReadAt(ctx, p[:128<<10], 0); err != nil {
		t.Error(err)
	}
	if err := c.ReadAt(ctx, p[128<<10:192<<10], 128<<10); err == nil {
		t.Error("a damaged payload was served")
	}
	if err := c.ReadAt(ctx, p[192<<10:], 192<<10); err != nil {
		t.Error(err)
	}
	for i, b := range p {
		if damaged := i >= 128<<10 && i < 192<<10; b != 0x11 && !damaged {
			t.Fatalf("byte %d of the first point is %#x", i, b)
		}
	}
	goodWorks(0x44)
}

func TestDamagedStructure(t *testing.T) {
	for _, tc := range []struct {
		name string
		fits func(kind, op, batch string, seq uint64) bool
		byte int64
	}{
		{"wrong-magic", func(kind, _, _ string, _ uint64) bool { return kind == "segment" }, 0},
		{"batch-header", func(kind, _, batch string, _ uint64) bool { return kind == "batch" && batch == "writes" }, 30},
		{"entry-header", func(kind, op, _ string, _ uint64) bool { return kind == "entry" && op == "write" }, 17},
		{"data", func(kind, op, _ string, _ uint64) bool { return kind == "entry" && op == "write" }, 48 + 1000},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, first, second, goodWorks := flippedHub(t, false)
			at := lookFor(t, h, "bad", tc.fits)
			flip(t, at.file, at.offset+tc.byte)
			names(t, h, "bad", at.file, at.offset+tc.byte)
			h.Start()
			goodWorks(0x33)
			g := h.Group("bad")
			if g.State != api.StateDegraded || !strings.Contains(g.Reason, filepath.Base(at.file)) || g.Hint == "" {
				t.Errorf("the damaged group is %s: %q, hint %q", g.State, g.Reason, g.Hint)
			}
			fails(t, h, unavailable, []string{filepath.Base(at.file)}, "mount", "bad", "--at", fmt.Sprintf("seq:%d", first))
			fails(t, h, unavailable, []string{"bad"}, "pause", "bad")

			// Nothing was lost: with the byte back, every point is.
			h.Stop()
			flip(t, at.file, at.offset+tc.byte)
			h.Start()
			h.WaitState("bad", api.StateProtected)
			for seq, with := range map[uint64]byte{first: 0x11, second: 0x22} {
				m := h.Mount("bad", fmt.Sprintf("seq:%d", seq))
				reads(t, m.Volumes[0].URI, 8<<20, 512<<10, with)
				h.Must("unmount", m.ID)
			}
			goodWorks(0x44)
		})
	}
}
