package replica

import (
	"context"
	"fmt"

	"github.com/rephub/rephub/journal"
	"github.com/rephub/rephub/journal/index"
)

const (
	rollWindow = 64 << 20 // bytes of a volume looked up at once
	rollBuffer = 1 << 20  // bytes written to the base at once, at most
)

// roll writes what was written in (from, to] into the base images, every block
// once, in the order of the disk, and syncs them. It returns how many bytes it
// wrote. Doing it again, or a part of it, does no harm.
func (s *Store) roll(ctx context.Context, from, to journal.Seq) (written int64, err error) {
	tl := s.log.Timeline()
	r := roller{ctx: ctx, s: s, floor: uint64(from), data: make([]byte, 0, rollBuffer)}
	// The checksums go with the segments: what is damaged must not get into the
	// base as if it were good.
	if r.damaged, err = s.log.Verify(ctx, from, to); err != nil {
		return 0, err
	}
	for _, v := range tl.Volumes {
		size, ok := v.At(to)
		if !ok {
			continue
		}
		if r.base, err = s.Base(v.ID); err != nil {
			return r.written, err
		}
		im := image{s: s, id: v.ID, base: r.base, at: uint64(to), shelves: shelves(&v, uint64(to))}
		if err := s.forgetHashes(&im, from, size, largest(&v, to)); err != nil {
			return r.written, err
		}
		if err := r.volume(&im, size, largest(&v, to)); err != nil {
			return r.written, fmt.Errorf("volume %d: %w", v.ID, err)
		}
		if err := r.base.Sync(); err != nil {
			return r.written, fmt.Errorf("sync base image of volume %d: %w", v.ID, err)
		}
	}
	return r.written, nil
}

// roller gathers neighbouring pieces of payload and writes them in one go.
type roller struct {
	ctx     context.Context
	s       *Store
	base    *Base
	floor   uint64
	damaged []journal.Damage
	pieces  []index.Piece
	data    []byte // from off on
	off     int64
	written int64
}

// largest is the largest size that the volume has had up to a point.
func largest(v *journal.Volume, at journal.Seq) (size int64) {
	for _, x := range v.Sizes {
		if x.After < at {
			size = max(size, x.Size)
		}
	}
	return size
}

// volume rolls one base image; size is the volume's at the new base. What it
// lost by shrinking, up to the size it once had, becomes a hole.
func (r *roller) volume(im *image, size, once int64) error {
	for off := int64(0); off < size; off += rollWindow {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		var err error
		if r.pieces, err = im.pieces(off, min(rollWindow, size-off), r.floor, r.pieces[:0]); err != nil {
			return err
		}
		for _, p := range r.pieces {
			if err := r.piece(p); err != nil {
				return err
			}
		}
	}
	if err := r.flush(); err != nil {
		return err
	}
	return r.base.zero(size, once-size)
}

func (r *roller) piece(p index.Piece) error {
	switch p.Kind {
	case index.Zero:
		if err := r.flush(); err != nil {
			return err
		}
		return r.base.zero(p.Off, p.Len)
	case index.Data:
		for _, d := range r.damaged {
			if d.Segment == p.Segment && d.Pos < p.Pos+p.Len && p.Pos < d.Pos+d.Len {
				return d.Err
			}
		}
		for p.Len > 0 {
			if err := r.gather(&p); err != nil {
				return err
			}
		}
	}
	return nil
}

// gather reads the beginning of the piece, as far as there is room, and cuts
// it off.
func (r *roller) gather(p *index.Piece) error {
	if len(r.data) == cap(r.data) || p.Off != r.off+int64(len(r.data)) {
		if err := r.flush(); err != nil {
			return err
		}
		r.off = p.Off
	}
	have := len(r.data)
	n := min(int64(cap(r.data)-have), p.Len)
	r.data = r.data[:have+int(n)]
	if err := r.s.log.ReadPayload(r.data[have:], p.Segment, p.Pos); err != nil {
		return err
	}
	p.Off, p.Pos, p.Len = p.Off+n, p.Pos+n, p.Len-n
	return nil
}

func (r *roller) flush() error {
	if len(r.data) == 0 {
		return nil
	}
	if err := r.s.cfg.Throttle(r.ctx, len(r.data)); err != nil {
		return err
	}
	if _, err := r.base.f.WriteAt(r.data, r.off); err != nil {
		return fmt.Errorf("write base image: %w", err)
	}
	r.written += int64(len(r.data))
	r.data = r.data[:0]
	return nil
}
