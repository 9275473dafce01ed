package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/digest"
	"github.com/rephub/rephub/journal"
	"github.com/rephub/rephub/journal/index"
)

// Hashes is a volume as base and journal have it at the moment of each call, by
// its hashes. Those of whole chunks are kept, and believed as long as nothing
// has touched the chunk since: see docs/design/002. All methods may be called
// concurrently.
type Hashes struct {
	latest
	file   *hashFile
	secret digest.Secret
	hash   *digest.Hasher
	key    digest.Sum // identity of the secret
}

// Hashes gives a volume's hashes. The group's secret is made when it is first
// asked for.
func (s *Store) Hashes(id journal.VolumeID) (*Hashes, error) {
	if s.volume(id) == nil {
		return nil, fmt.Errorf("hash volume %d: %w", id, ErrNoVolume)
	}
	secret, err := s.hashSecret()
	if err != nil {
		return nil, fmt.Errorf("hash volume %d: %w", id, err)
	}
	h := &Hashes{latest: latest{s, id}, file: s.hashFile(id), secret: secret}
	if h.hash, err = digest.New(secret); err != nil {
		return nil, err
	}
	h.key = h.hash.ID()
	if err := h.file.ready(h.key); err != nil {
		s.cfg.Logger.Warn("kept hashes cannot be used", "volume", id, "err", err)
	}
	return h, nil
}

// hashFile is the file of a volume's kept hashes; there need not be one.
func (s *Store) hashFile(id journal.VolumeID) *hashFile {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.mu.hashes[id]
	if h == nil {
		name := filepath.Join(s.dir, hashesName, fmt.Sprintf("V%d", id))
		h = &hashFile{fs: s.fs, name: name, volume: uint32(id), had: s.opened, logger: s.cfg.Logger}
		s.mu.hashes[id] = h
	}
	return h
}

// Secret is the key of the hashes.
func (h *Hashes) Secret() digest.Secret { return h.secret }

// hashStep is how much of a volume is looked up and read at a time, in bytes.
const hashStep = 256 << 10

// hashBuffer is what hashing a step needs.
type hashBuffer struct {
	data   [hashStep]byte
	pieces []index.Piece
	part   []index.Piece
	blocks []digest.Sum
}

var hashBuffers = sync.Pool{New: func() any { return new(hashBuffer) }}

// Blocks appends the hash of each block of r, which begins at a block and ends
// at one or with the volume.
func (h *Hashes) Blocks(ctx context.Context, r block.Range, dst []digest.Sum) ([]digest.Sum, error) {
	buf := hashBuffers.Get().(*hashBuffer)
	defer hashBuffers.Put(buf)
	v, err := h.open()
	if err == nil {
		err = checkBlocks(r, v.size)
	}
	for at := r.Off; at < r.End() && err == nil; {
		p := buf.data[:min(hashStep, r.End()-at)]
		if err = v.readAt(ctx, p, at); err == nil {
			dst = h.hash.AppendBlocks(dst, p)
		}
		at += int64(len(p))
	}
	return dst, err
}

func checkBlocks(r block.Range, size int64) error {
	if r.Off < 0 || r.Len <= 0 || r.Off > size-r.Len || r.Off%digest.Block != 0 || r.Len%digest.Block != 0 && r.End() != size {
		return fmt.Errorf("hash %d bytes at %d: no blocks of a volume of %d bytes", r.Len, r.Off, size)
	}
	return nil
}

// Pieces appends the hash of each part of r, cut at multiples of digest.Chunk. r
// begins at a block and ends at one or with the volume.
func (h *Hashes) Pieces(ctx context.Context, r block.Range, dst []digest.Sum) ([]digest.Sum, error) {
	buf := hashBuffers.Get().(*hashBuffer)
	defer hashBuffers.Put(buf)
	synced := h.s.SyncProgress(h.id)
	for at := r.Off; at < r.End(); {
		step := block.Range{Off: at, Len: min(at-at%hashStep+hashStep, r.End()) - at}
		w := hashing{h: h, buf: buf, r: step, synced: synced}
		var err error
		for again := true; again; {
			if again, err = w.run(ctx); err != nil {
				return dst, err
			}
		}
		dst = append(dst, w.sums[:w.n]...)
		at = step.End()
	}
	return dst, nil
}

// hashing is the work on the pieces of one step.
type hashing struct {
	h      *Hashes
	buf    *hashBuffer
	r      block.Range
	synced int64 // the initial sync writes nothing below

	turn    uint64 // of the file
	floor   uint64 // what the base holds
	durable uint64 // seq

	im    image
	first int64 // chunk
	n     int
	sums  [hashStep / digest.Chunk]digest.Sum
	known [hashStep / digest.Chunk]kept
	last  [hashStep / digest.Chunk]uint64 // newest seq that touched the piece, + 1
}

// piece is the i-th part.
func (w *hashing) piece(i int) block.Range {
	off := w.r.Off - w.r.Off%digest.Chunk + int64(i)*digest.Chunk
	return block.Range{Off: off, Len: digest.Chunk}.Intersect(w.r)
}

// run fills sums; again when retention came between.
func (w *hashing) run(ctx context.Context) (again bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if err := w.recall(); err != nil {
		return false, err
	}
	again, err = w.complete()
	if errors.Is(err, journal.ErrDropped) && w.h.s.base.Load() != w.floor {
		return true, nil
	}
	return again, err
}

// recall reads what is kept. The order is law: what is forgotten, rolled, made
// durable or resized later shows in a line below, or is above the seq that will
// be kept.
func (w *hashing) recall() error {
	s := w.h.s
	w.turn = w.h.file.turn.Load()
	w.floor = s.base.Load()
	w.durable = uint64(s.log.Durable())
	v, err := w.h.open()
	if err == nil {
		err = checkBlocks(w.r, v.size)
	}
	if err != nil {
		return err
	}
	w.im = v.image
	w.first = w.r.Off / digest.Chunk
	w.n = int((w.r.End()+digest.Chunk-1)/digest.Chunk - w.first)
	w.h.file.read(w.h.key, w.first, w.known[:w.n])
	return nil
}

// complete finds out what has changed since the hashes were kept, makes those
// that are missing, and keeps them.
func (w *hashing) complete() (again bool, err error) {
	w.buf.pieces, err = w.im.pieces(w.r.Off, w.r.Len, w.floor, w.buf.pieces[:0])
	if err != nil {
		return false, err
	}
	if w.h.s.base.Load() != w.floor {
		return true, nil // entries may have gone from the index into the base
	}
	clear(w.last[:])
	newest(w.buf.pieces, w.first*digest.Chunk, w.last[:])
	keep, err := w.sum()
	if err == nil {
		w.h.file.write(w.h.key, w.turn, w.first, keep[:w.n])
	}
	return false, err
}

// sum fills sums from what is known and from the volume, and tells what may be
// kept: everything below the newest durable seq is durable; at that seq, sync
// records may follow.
func (w *hashing) sum() (keep [hashStep / digest.Chunk]kept, err error) {
	for i := range w.n {
		p := w.piece(i)
		whole := p.Len == digest.Chunk && p.End() <= w.synced
		if k := w.known[i]; whole && k.ok && w.last[i] <= k.seq+1 {
			w.sums[i] = k.sum
			continue
		}
		hole, err := w.compute(i, p)
		if err != nil {
			return keep, err
		}
		if whole && !hole && w.durable > 0 && w.last[i] <= w.durable {
			keep[i] = kept{seq: w.durable - 1, sum: w.sums[i], ok: true}
		}
	}
	return keep, nil
}

// compute hashes a piece; holes are not read.
func (w *hashing) compute(i int, p block.Range) (hole bool, err error) {
	w.buf.part = clipPieces(w.buf.pieces, p, w.buf.part[:0])
	if hole, err = w.im.hole(w.buf.part); err != nil {
		return false, err
	}
	if hole {
		w.sums[i] = w.h.hash.Zeroes(p.Len)
		return true, nil
	}
	data := w.buf.data[:p.Len]
	if err := w.im.fill(data, p.Off, w.buf.part); err != nil {
		return false, err
	}
	w.buf.blocks = w.h.hash.AppendBlocks(w.buf.blocks[:0], data)
	w.sums[i] = w.h.hash.Join(w.buf.blocks)
	return false, nil
}

// clipPieces appends the parts of pieces that lie in r.
func clipPieces(pieces []index.Piece, r block.Range, dst []index.Piece) []index.Piece {
	for _, p := range pieces {
		x := block.Range{Off: p.Off, Len: p.Len}.Intersect(r)
		if x.Empty() {
			continue
		}
		if p.Kind == index.Data {
			p.Pos += x.Off - p.Off
		}
		p.Off, p.Len = x.Off, x.Len
		dst = append(dst, p)
	}
	return dst
}

// hole tells whether the pieces are nothing but holes.
func (m *image) hole(pieces []index.Piece) (bool, error) {
	for _, p := range pieces {
		switch p.Kind {
		case index.Data:
			return false, nil
		case index.None:
			at, err := m.base.f.NextData(p.Off)
			if errors.Is(err, io.EOF) {
				continue
			}
			if err != nil {
				return false, fmt.Errorf("find data in base image: %w", err)
			}
			if at < p.Off+p.Len {
				return false, nil
			}
		}
	}
	return true, nil
}
