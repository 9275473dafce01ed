package recovery

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
)

// memView is a view of bytes that never change.
type memView struct {
	data   []byte
	closed func()
}

func (v *memView) ReadAtContext(_ context.Context, p []byte, off int64) (int, error) {
	if n := copy(p, v.data[off:]); n < len(p) {
		return n, fmt.Errorf("%d bytes at %d past the end", len(p), off)
	}
	return len(p), nil
}

func (v *memView) Size() int64 { return int64(len(v.data)) }

func (v *memView) Extents(off, n int64) (list []block.Extent, err error) {
	for end := off + n; off < end; {
		stop := min(off-off%page+page, end)
		hole := bytes.Count(v.data[off:stop], []byte{0}) == int(stop-off)
		if k := len(list) - 1; k >= 0 && list[k].Hole == hole {
			list[k].Len += stop - off
		} else {
			list = append(list, block.Extent{Off: off, Len: stop - off, Hole: hole})
		}
		off = stop
	}
	return list, nil
}

func (v *memView) Close() error {
	if v.closed != nil {
		v.closed()
	}
	return nil
}

// memGroup is a group with a few points, each volume's content by seq.
type memGroup struct {
	t       testing.TB
	volumes []Volume
	points  map[journal.Seq]map[journal.VolumeID][]byte

	mu     sync.Mutex
	pins   map[journal.Seq]int
	opened int
}

func newMemGroup(t testing.TB, size int64, seqs ...journal.Seq) *memGroup {
	g := &memGroup{t: t, points: make(map[journal.Seq]map[journal.VolumeID][]byte), pins: make(map[journal.Seq]int)}
	g.volumes = []Volume{{ID: 1, Name: "db/disk0", Size: size}, {ID: 2, Name: "db/disk 1", Size: size + 512}}
	for _, s := range seqs {
		p := make(map[journal.VolumeID][]byte)
		for _, v := range g.volumes {
			p[v.ID] = pattern(v.Size, uint64(s)*100+uint64(v.ID))
		}
		g.points[s] = p
	}
	return g
}

// pattern is half-empty content that depends on a seed.
func pattern(size int64, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 7))
	p := make([]byte, size)
	for off := 0; off < len(p); off += page {
		if r.IntN(2) == 0 {
			b := p[off:min(off+page, len(p))]
			for i := 0; i < len(b); i += 32 {
				b[i] = byte(1 + r.IntN(255))
			}
		}
	}
	return p
}

func (g *memGroup) ID() journal.GroupID { return journal.GroupID{1, 2, 3} }
func (g *memGroup) Name() string        { return "shop" }

func (g *memGroup) Volumes(at journal.Seq) ([]Volume, error) {
	if g.points[at] == nil {
		return nil, fmt.Errorf("seq %s: %w", at, journal.ErrNoSeq)
	}
	return g.volumes, nil
}

func (g *memGroup) View(v journal.VolumeID, at journal.Seq) (View, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pins[at] == 0 {
		g.t.Errorf("view of seq %s, which is not pinned", at)
	}
	g.opened++
	return &memView{data: g.points[at][v], closed: func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.opened--
	}}, nil
}

func (g *memGroup) Pin(at journal.Seq) (func(), error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.points[at] == nil {
		return nil, fmt.Errorf("seq %s: %w", at, journal.ErrNoSeq)
	}
	g.pins[at]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.pins[at]--
	}, nil
}

// idle fails unless everything was given back.
func (g *memGroup) idle() {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	for s, n := range g.pins {
		if n != 0 {
			g.t.Errorf("seq %s is pinned %d times", s, n)
		}
	}
	if g.opened != 0 {
		g.t.Errorf("%d views are open", g.opened)
	}
}

// coherent makes a file system's mappings show later writes, as the kernel's do.
type coherent struct{ vfs.FS }

type coherentFile struct {
	vfs.File
	maps *[]coherentMap
}

type coherentMap struct {
	off int64
	p   []byte
}

func (c coherent) OpenFile(name string, flag int, perm os.FileMode) (vfs.File, error) {
	f, err := c.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return coherentFile{f, new([]coherentMap)}, nil
}

func (f coherentFile) Map(off, n int64) (vfs.Mapping, error) {
	m, err := f.File.Map(off, n)
	if err == nil {
		*f.maps = append(*f.maps, coherentMap{off, m.Bytes()})
	}
	return m, err
}

func (f coherentFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	for _, m := range *f.maps {
		w := block.Range{Off: off, Len: int64(n)}.Intersect(block.Range{Off: m.off, Len: int64(len(m.p))})
		if !w.Empty() {
			copy(m.p[w.Off-m.off:w.End()-m.off], p[w.Off-off:])
		}
	}
	return n, err
}

// shortDir is a temporary directory whose path fits a socket's name.
func shortDir(t testing.TB) string {
	t.Helper()
	d, err := os.MkdirTemp("", "rec")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	return filepath.Clean(d)
}
