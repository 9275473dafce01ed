package recovery

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func (g *memGroup) pinned(seq int) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	for s, n := range g.pins {
		if int(s) == seq {
			return n
		}
	}
	return 0
}

// The point of a mount whose layer cannot be opened now stays pinned, so that a
// later try finds it, until the mount is ended.
func TestBrokenMountKeepsItsPoint(t *testing.T) {
	g := newMemGroup(t, mountSize, 5)
	dir := shortDir(t)
	h := startHub(t, dir, nil)
	mt := h.mount(g, 5, true)
	h.stop()
	g.idle()
	layer := filepath.Join(dir, "mounts", mt.ID, "V1.data")
	if err := os.Rename(layer, layer+".away"); err != nil {
		t.Fatal(err)
	}
	h = startHub(t, dir, nil)
	open := func(context.Context, Record) (Group, error) { return g, nil }
	for range 2 {
		if err := h.Restore(t.Context(), open); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("restore: %v", err)
		}
		if n := g.pinned(5); n != 1 {
			t.Fatalf("the point is pinned %d times", n)
		}
	}
	if err := os.Rename(layer+".away", layer); err != nil {
		t.Fatal(err)
	}
	if err := h.Restore(t.Context(), open); err != nil {
		t.Fatal(err)
	}
	if err := h.Unmount(t.Context(), mt.ID, false); err != nil {
		t.Fatal(err)
	}
	g.idle()
}

// A mount whose record is damaged is served from the catalog's copy, and mended.
func TestDamagedRecordIsMended(t *testing.T) {
	g := newMemGroup(t, mountSize, 5)
	dir := shortDir(t)
	records := &memRecords{m: map[string]Record{}}
	h := startHub(t, dir, records)
	mt := h.mount(g, 5, false)
	h.stop()
	name := filepath.Join(dir, "mounts", mt.ID, mountFile)
	p, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	p[len(p)/2] ^= 1
	if err := os.WriteFile(name, p, 0o600); err != nil {
		t.Fatal(err)
	}
	h = startHub(t, dir, records)
	if err := h.Restore(t.Context(), func(context.Context, Record) (Group, error) { return g, nil }); err != nil {
		t.Fatal(err)
	}
	if m, err := h.Get(mt.ID); err != nil || m.Err != "" || m.Seq != 5 || g.pinned(5) == 0 {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := loadRecord(h.cfg.FS, filepath.Dir(name)); err != nil {
		t.Errorf("the record was not mended: %v", err)
	}
}
