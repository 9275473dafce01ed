package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/journal"
	"github.com/rephub/rephub/journal/index"
)

// shelf is what a volume lost when it shrank: from byte From on, entries up to
// After do not show, and the base neither.
type shelf struct {
	from  int64
	after uint64
}

// shelves of a volume up to a seq, ascending by from, each with the newest
// shrink that concerns it.
func shelves(v *journal.Volume, at uint64) []shelf {
	var out []shelf
	for i := 1; i < len(v.Sizes); i++ {
		s := v.Sizes[i]
		if uint64(s.After) >= at || s.Size >= v.Sizes[i-1].Size {
			continue
		}
		for len(out) > 0 && out[len(out)-1].from >= s.Size {
			out = out[:len(out)-1]
		}
		out = append(out, shelf{s.Size, uint64(s.After)})
	}
	return out
}

// image is a volume as of a seq: a pure function of base and journal prefix.
type image struct {
	s       *Store
	id      journal.VolumeID
	base    *Base
	at      uint64
	shelves []shelf
}

var pieceBuffers = sync.Pool{New: func() any { p := make([]index.Piece, 0, 64); return &p }}

const keepPieces = 1 << 14 // buffers that have grown beyond are not kept

func putPieces(p *[]index.Piece) {
	if cap(*p) <= keepPieces {
		pieceBuffers.Put(p)
	}
}

// pieces appends where the bytes of [off, off+n) are, for entries above floor.
// What was cut off by a shrink is Zero.
func (m *image) pieces(off, n int64, floor uint64, buf []index.Piece) ([]index.Piece, error) {
	set := m.s.log.Index()
	if len(m.shelves) == 0 {
		return set.Lookup(uint32(m.id), off, n, m.at, floor, buf)
	}
	end := off + n
	for i := -1; i < len(m.shelves) && off < end; i++ {
		stop, above := end, floor
		if i+1 < len(m.shelves) {
			stop = min(end, m.shelves[i+1].from)
		}
		if stop <= off {
			continue
		}
		if i >= 0 {
			above = max(floor, m.shelves[i].after)
		}
		first := len(buf)
		var err error
		if buf, err = set.Lookup(uint32(m.id), off, stop-off, m.at, above, buf); err != nil {
			return buf, err
		}
		for j := range buf[first:] {
			if p := &buf[first+j]; p.Kind == index.None && i >= 0 && m.shelves[i].after >= floor {
				p.Kind, p.Seq = index.Zero, m.shelves[i].after
			}
		}
		off = stop
	}
	return buf, nil
}

// readAt fills p from off. When retention drops a segment between the lookup
// and the read, the base has what was there, and the lookup is repeated.
func (m *image) readAt(ctx context.Context, p []byte, off int64) error {
	buf := pieceBuffers.Get().(*[]index.Piece)
	defer putPieces(buf)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		floor := m.s.base.Load()
		pieces, err := m.pieces(off, int64(len(p)), floor, (*buf)[:0])
		*buf = pieces[:0]
		if err == nil {
			err = m.fill(p, off, pieces)
		}
		if err == nil || !errors.Is(err, journal.ErrDropped) || m.s.base.Load() == floor {
			return err
		}
	}
}

func (m *image) fill(p []byte, off int64, pieces []index.Piece) error {
	for i := range pieces {
		x := &pieces[i]
		part := p[x.Off-off : x.Off-off+x.Len]
		var err error
		switch x.Kind {
		case index.Zero:
			clear(part)
		case index.Data:
			err = m.s.log.ReadPiece(part, m.id, x.Off, journal.Seq(x.Seq), x.Segment, x.Pos)
		default:
			err = m.base.readAt(part, x.Off)
		}
		if err != nil {
			return fmt.Errorf("read volume %d at %d: %w", m.id, x.Off, err)
		}
	}
	return nil
}

// extentWindow is how much of a volume one lookup of extents covers, in bytes.
const extentWindow = 1 << 30

// extents tells what is data and what hole in [off, off+n).
func (m *image) extents(off, n int64) ([]block.Extent, error) {
	var out []block.Extent
	buf := pieceBuffers.Get().(*[]index.Piece)
	defer putPieces(buf)
	for end := off + n; off < end; {
		k := min(end-off, extentWindow)
		pieces, err := m.pieces(off, k, m.s.base.Load(), (*buf)[:0])
		if err != nil {
			return nil, err
		}
		*buf = pieces[:0]
		for _, x := range pieces {
			if x.Kind != index.None {
				out = addExtent(out, block.Extent{Off: x.Off, Len: x.Len, Hole: x.Kind == index.Zero})
			} else if out, err = m.base.extents(x.Off, x.Len, out); err != nil {
				return nil, err
			}
		}
		off += k
	}
	return out, nil
}
