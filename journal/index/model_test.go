package index

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/rephub/rephub/internal/vfs"
)

// world drives a Set and remembers all extents in order.
type world struct {
	t     *testing.T
	fs    vfs.FS
	dir   string
	rng   *rand.Rand
	set   *Set
	mem   *Mem
	seg   uint32
	pos   int64
	seq   uint64
	all   []Extent
	floor uint64            // lookups below are not promised
	last  map[uint32]uint64 // last seq of each sealed segment
}

func newWorld(t *testing.T, fs vfs.FS, dir string, seed uint64) *world {
	w := &world{t: t, fs: fs, dir: dir, rng: rand.New(rand.NewPCG(seed, 1)), seg: 1, pos: 4096, seq: 10, last: map[uint32]uint64{}}
	set, err := OpenSet(fs, dir)
	if err != nil {
		t.Fatal(err)
	}
	w.set, w.mem = set, NewMem()
	set.SetActive(w.mem)
	return w
}

const volumeSpan = 40 << 30

// extent makes an extent of any size and alignment, often near the last one.
func (w *world) extent() Extent {
	r := w.rng
	e := Extent{Volume: 1 + uint32(r.IntN(2)), Segment: w.seg}
	unit := int64(1) << shifts[r.IntN(3)]
	switch r.IntN(10) {
	case 0:
		e.Off, e.Len = r.Int64N(1<<16), 1+r.Int64N(700)
	case 1:
		e.Off, e.Len = r.Int64N(1<<20), 1
	case 2:
		e.Off, e.Len, e.Zero = r.Int64N(1<<26), 32<<20, true
	case 3:
		e.Off, e.Len, e.Zero = r.Int64N(volumeSpan-(3<<30)), 3<<30+r.Int64N(3), r.IntN(8) > 0
	case 4:
		e.Off, e.Len, e.Zero = r.Int64N(volumeSpan>>25)<<25, 64<<20, true
	case 5:
		e.Off, e.Len = r.Int64N(4<<20), 1+r.Int64N(1<<20)
	default:
		e.Off, e.Len, e.Zero = r.Int64N(1<<22/unit)*unit, unit*(1+r.Int64N(3)), r.IntN(5) == 0
	}
	return e
}

func (w *world) write() {
	e := w.extent()
	switch w.rng.IntN(8) {
	case 0: // a record that shares its seq with the one before
	case 1:
		w.seq += 1 + w.rng.Uint64N(1000)
	default:
		w.seq++
	}
	w.pos += 48
	e.Seq, e.Pos = w.seq, w.pos
	if !e.Zero {
		w.pos += (e.Len + 7) &^ 7
	}
	w.mem.Add(e)
	w.all = append(w.all, e)
}

func (w *world) seal() {
	old, seg := w.mem, w.seg
	w.last[seg] = w.seq
	w.seg, w.pos, w.mem = w.seg+1, 4096, NewMem()
	w.set.SetActive(w.mem)
	w.check(2)
	if err := w.set.Install(seg, old); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) drop() {
	if w.seg < 4 {
		return
	}
	seg := w.seg - 2 - uint32(w.rng.IntN(2))
	w.floor = max(w.floor, w.last[seg])
	if err := w.set.DropThrough(seg); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) merge() {
	if _, err := w.set.MergeOnce(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

// reopen closes the set and opens it; the active Mem is carried over.
func (w *world) reopen() {
	if err := w.set.Close(); err != nil {
		w.t.Fatal(err)
	}
	set, err := OpenSet(w.fs, w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	w.set = set
	set.SetActive(w.mem)
}

func (w *world) query() (vol uint32, off, n int64) {
	r := w.rng
	e := w.all[r.IntN(len(w.all))]
	vol = 1 + uint32(r.IntN(2))
	switch r.IntN(4) {
	case 0:
		return vol, max(0, e.Off-r.Int64N(5000)), 1 + r.Int64N(20000)
	case 1:
		return vol, e.Off &^ 4095, 4096
	case 2:
		return vol, r.Int64N(volumeSpan), 1 + r.Int64N(4<<30)
	default:
		return vol, r.Int64N(1 << 22), 1 + r.Int64N(1<<20)
	}
}

// check compares n lookups with the model.
func (w *world) check(n int) {
	w.t.Helper()
	var buf []Piece
	for range n {
		if len(w.all) == 0 {
			return
		}
		vol, off, size := w.query()
		at := w.all[w.rng.IntN(len(w.all))].Seq + w.rng.Uint64N(2)
		if w.rng.IntN(3) == 0 {
			at = ^uint64(0)
		}
		floor := w.floor
		if w.rng.IntN(2) == 0 {
			floor = max(floor, w.all[w.rng.IntN(len(w.all))].Seq)
		}
		got, err := w.set.Lookup(vol, off, size, at, floor, buf[:0])
		if err != nil {
			w.t.Fatal(err)
		}
		if err := compare(w.all, got, vol, off, size, at, floor); err != nil {
			w.t.Fatalf("volume %d, %d bytes at %d, seqs %d to %d: %v", vol, size, off, floor, at, err)
		}
		buf = got
	}
}

// compare holds the pieces against the extents, painted one over the other.
func compare(all []Extent, got []Piece, vol uint32, off, n int64, at, floor uint64) error {
	end := off + n
	var hits []Extent
	edges := []int64{off, end}
	for _, e := range all {
		if e.Volume == vol && e.Seq <= at && e.Seq > floor && e.Off < end && e.Off+e.Len > off {
			hits = append(hits, e)
			edges = append(edges, max(off, e.Off), min(end, e.Off+e.Len))
		}
	}
	next := off
	for i, p := range got {
		if p.Off != next || p.Len <= 0 {
			return fmt.Errorf("piece %d is %+v, not at %d", i, p, next)
		}
		if i > 0 && got[i-1].Kind == p.Kind && p.Kind != Data {
			return fmt.Errorf("pieces %d and %d should be one", i-1, i)
		}
		next += p.Len
		edges = append(edges, p.Off)
	}
	if next != end {
		return fmt.Errorf("pieces end at %d", next)
	}
	slices.Sort(edges)
	edges = slices.Compact(edges)
	k := 0
	for _, a := range edges[:len(edges)-1] {
		for got[k].Off+got[k].Len <= a {
			k++
		}
		want := Piece{Kind: None}
		for _, e := range slices.Backward(hits) {
			if e.Off <= a && a < e.Off+e.Len {
				want = Piece{Kind: Data, Segment: e.Segment, Pos: e.Pos + a - e.Off}
				if e.Zero {
					want = Piece{Kind: Zero}
				}
				break
			}
		}
		g := Piece{Kind: got[k].Kind}
		if g.Kind == Data {
			g.Segment, g.Pos = got[k].Segment, got[k].Pos+a-got[k].Off
		}
		if g != want {
			return fmt.Errorf("at %d: got %+v, want %+v", a, g, want)
		}
	}
	return nil
}

func TestModel(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, vfs.OS(), t.TempDir(), seed)
			for range 700 {
				w.write()
				switch w.rng.IntN(25) {
				case 0, 1, 2:
					w.seal()
				case 3, 4:
					w.merge()
				case 5:
					if w.rng.IntN(4) == 0 {
						w.drop()
					}
				case 6:
					w.reopen()
				}
				w.check(2)
			}
			for did := true; did; {
				var err error
				if did, err = w.set.MergeOnce(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
			w.reopen()
			w.check(200)
			if err := w.set.Verify(); err != nil {
				t.Fatal(err)
			}
			if err := w.set.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestHotUnit looks for any version of a block that is written all the time.
func TestHotUnit(t *testing.T) {
	w := newWorld(t, vfs.OS(), t.TempDir(), 1)
	defer w.set.Close()
	const writes = 20000
	for i := range uint64(writes) {
		w.mem.Add(Extent{Volume: 1, Off: 4096, Len: 4096, Seq: i + 1, Segment: w.seg, Pos: int64(i) * 4144})
		if i == writes/2 {
			w.seal()
		}
	}
	for at := uint64(0); at <= writes; at += 37 {
		p, err := w.set.Lookup(1, 4096, 4096, at, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(p) != 1 || p[0].Seq != at || at > 0 && p[0].Pos != int64(at-1)*4144 {
			t.Fatalf("at %d: %+v", at, p)
		}
	}
}
