package sync

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	stdsync "sync"
	"testing"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/digest"
)

// made is a volume whose bytes are made up when they are read: block n is a hole,
// or its content follows from n and its version.
type made struct {
	size    int64
	hole    func(chunk int64) bool
	version map[int64]uint64 // of blocks, 0 if not there
}

func (m *made) Size() int64 { return m.size }

func (m *made) ReadAt(p []byte, off int64) (int, error) {
	for i := 0; i < len(p); i += Block {
		b := p[i:min(i+Block, len(p))]
		clear(b)
		n := (off + int64(i)) / Block
		v := m.version[n]
		if v == 0 && m.hole(n*Block/digest.Chunk) {
			continue
		}
		for k := 0; k < len(b); k += 512 {
			binary.LittleEndian.PutUint64(b[k:], uint64(n)*1_000_003+v<<48+1)
		}
	}
	return len(p), nil
}

// Extents joins chunks.
func (m *made) Extents(off, n int64) (list []block.Extent, err error) {
	for end := off + n; off < end; {
		stop := min(off-off%digest.Chunk+digest.Chunk, end)
		hole := m.hole(off / digest.Chunk)
		if k := len(list) - 1; k >= 0 && list[k].Hole == hole {
			list[k].Len += stop - off
		} else {
			list = append(list, block.Extent{Off: off, Len: stop - off, Hole: hole})
		}
		off = stop
	}
	return list, nil
}

type madeSource struct{ *made }

func (s madeSource) ReadAt(_ context.Context, p []byte, off int64) error {
	_, err := s.made.ReadAt(p, off)
	return err
}

func (s madeSource) Allocated(_ context.Context, off, n int64) ([]block.Extent, error) {
	return s.Extents(off, n)
}

// madeHashes is a replica like that.
type madeHashes struct {
	*made
	h *digest.Hasher
}

func (s madeHashes) Secret() digest.Secret { return digest.Secret{9} }

func (s madeHashes) Blocks(_ context.Context, r block.Range, dst []digest.Sum) ([]digest.Sum, error) {
	p := make([]byte, r.Len)
	if _, err := s.made.ReadAt(p, r.Off); err != nil {
		return dst, err
	}
	return s.h.AppendBlocks(dst, p), nil
}

func (s madeHashes) Pieces(ctx context.Context, r block.Range, dst []digest.Sum) ([]digest.Sum, error) {
	var blocks [digest.Blocks]digest.Sum
	err := eachPiece(r, func(_ int, p block.Range) error {
		b, err := s.Blocks(ctx, p, blocks[:0])
		dst = append(dst, s.h.Join(b))
		return err
	})
	return dst, err
}

// tally counts what is committed.
type tally struct {
	mu    stdsync.Mutex
	last  Ticket
	bytes int64
	set   block.RangeSet
}

func (s *tally) Begin(block.Range) Ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	return s.last
}

func (s *tally) End(Ticket) {}

func (s *tally) Commit(_ context.Context, _ Ticket, r block.Range, _ []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes += r.Len
	s.set.Add(r)
	return nil
}

// wire is a source and a replica that differs from it in some blocks.
type wire struct {
	source, replica *made
	changed         map[int64]bool // blocks
	far             *distant
}

func newWire(t *testing.T, size int64, hole func(int64) bool) *wire {
	t.Helper()
	w := &wire{source: &made{size, hole, map[int64]uint64{}}, replica: &made{size, hole, nil}, changed: map[int64]bool{}}
	h, err := digest.New(digest.Secret{9})
	if err != nil {
		t.Fatal(err)
	}
	w.far = newDistant(t, madeHashes{w.replica, h})
	return w
}

func (w *wire) change(n int64) { w.source.version[n], w.changed[n] = 1, true }

// check holds what was committed to what differs, to the block.
func (w *wire) check(t *testing.T, s *tally) {
	t.Helper()
	for n := range w.changed {
		if !s.set.Contains(block.Range{Off: n * Block, Len: Block}) {
			t.Fatalf("block %d differs and was not committed", n)
		}
	}
	if want := int64(len(w.changed)) * Block; s.bytes != want {
		t.Fatalf("%d bytes were committed, %d differ", s.bytes, want)
	}
}

const gib = 1 << 30

// A compare may cost a thousandth of the volume beside what differs.
func TestWireOfCompare(t *testing.T) {
	for name, c := range map[string]struct {
		size    int64
		hole    func(int64) bool
		changes int
	}{
		"sparse, nothing differs": {gib, func(n int64) bool { return n%16 >= 4 }, 0},
		"sparse, 1000 blocks":     {gib, func(n int64) bool { return n%16 >= 4 }, 1000},
		"full, 1250 blocks":       {gib / 4, func(n int64) bool { return false }, 1250}, // a quarter of the chunks
		"data and holes by turns": {gib / 4, func(n int64) bool { return n%2 == 0 }, 250},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t, c.size, c.hole)
			r := rand.New(rand.NewPCG(1, 5))
			for len(w.changed) < c.changes {
				if n := r.Int64N(c.size / Block); !c.hole(n * Block / digest.Chunk) {
					w.change(n)
				}
			}
			var s tally
			if err := Compare(t.Context(), madeSource{w.source}, w.far.Current, &s, Options{}); err != nil {
				t.Fatal(err)
			}
			w.check(t, &s)
			n := w.far.wire.Load()
			t.Logf("%d bytes for %d that differ: %.4f %% of the volume", n, s.bytes, 100*float64(n)/float64(c.size))
			if n > c.size/1000 {
				t.Errorf("%d bytes crossed the wire, a thousandth is %d", n, c.size/1000)
			}
		})
	}
}

// A bitmap sync may cost 1.1 times what differs and a hundredth of what is dirty.
func TestWireOfBitmap(t *testing.T) {
	for name, granularity := range map[string]int64{"64 KiB": 64 << 10, "4 KiB": 4 << 10} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t, gib, func(int64) bool { return false })
			dirty, err := block.NewBitmap(gib, granularity)
			if err != nil {
				t.Fatal(err)
			}
			r := rand.New(rand.NewPCG(2, 5))
			for range 2000 {
				n := r.Int64N(gib / Block)
				w.change(n)
				dirty.Set(block.Range{Off: n * Block, Len: Block})
			}
			ranges := func(yield func(block.Range, error) bool) {
				for r := range dirty.Ranges() {
					if !yield(r, nil) {
						return
					}
				}
			}
			var s tally
			if err := Ranges(t.Context(), madeSource{w.source}, w.far.Current, ranges, &s, RangesOptions{}); err != nil {
				t.Fatal(err)
			}
			w.check(t, &s)
			n, limit := w.far.wire.Load(), s.bytes/10+dirty.Count()/100
			t.Logf("%d bytes for %d that differ of %d dirty: %.2f %% and %.2f %%",
				n, s.bytes, dirty.Count(), 100*float64(n)/float64(s.bytes), 100*float64(n)/float64(dirty.Count()))
			if n > limit {
				t.Errorf("%d bytes crossed the wire beside the blocks, allowed are %d", n, limit)
			}
		})
	}
}

// Holes of terabytes cost next to nothing.
func TestWireOfHoles(t *testing.T) {
	const size = 1 << 40
	w := newWire(t, size, func(n int64) bool { return n != 5 })
	w.replica.hole = func(n int64) bool { return n != 5 && n != size/digest.Chunk-1 }
	for n := range int64(digest.Blocks) {
		w.changed[size/Block-1-n] = true // the source has a hole there
	}
	var s tally
	if err := Compare(t.Context(), quickHoles{madeSource{w.source}}, w.far.Current, &s, Options{}); err != nil {
		t.Fatal(err)
	}
	w.check(t, &s)
	if n := w.far.wire.Load(); n > 256<<10 {
		t.Errorf("%d bytes crossed the wire", n)
	}
}

// quickHoles has data in chunk 5 only.
type quickHoles struct{ madeSource }

func (quickHoles) Allocated(_ context.Context, off, n int64) ([]block.Extent, error) {
	data := block.Range{Off: 5 * digest.Chunk, Len: digest.Chunk}
	r := block.Range{Off: off, Len: n}
	switch {
	case !r.Overlaps(data):
		return []block.Extent{{Off: off, Len: n, Hole: true}}, nil
	case off < data.Off:
		return []block.Extent{{Off: off, Len: data.Off - off, Hole: true}}, nil
	}
	x := r.Intersect(block.Range{Off: off, Len: data.End() - off})
	return []block.Extent{{Off: x.Off, Len: x.Len}}, nil
}
