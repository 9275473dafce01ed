package replica

import (
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/rephub/rephub/internal/digest"
	"github.com/rephub/rephub/journal"
	"github.com/rephub/rephub/journal/index"
)

// forgetHashes makes sure, before a base image is written, that no hash is kept
// that the entries in (from, to] made wrong: once they are in the base, nothing
// tells any more that they were there. The arguments are those of roller.volume.
func (s *Store) forgetHashes(im *image, from journal.Seq, size, once int64) error {
	h := s.hashFile(im.id)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.turn.Add(1)
	err := h.open()
	if err == nil && h.f == nil {
		return nil
	}
	if err == nil && !h.broken {
		if err = h.forget(im, from, size, once); err == nil {
			return nil
		}
	}
	if err != nil {
		h.logger.Warn("kept hashes are thrown away", "file", h.name, "err", err)
	}
	if err := h.drop(); err != nil {
		return fmt.Errorf("volume %d: %w", im.id, err)
	}
	return nil
}

// forget takes records away, durably. It needs mu and the file open.
func (h *hashFile) forget(im *image, from journal.Seq, size, once int64) error {
	var pieces []index.Piece
	touched := make([]uint64, rollWindow/digest.Chunk) // the newest seq + 1
	for off := int64(0); off < max(size, once); off += rollWindow {
		clear(touched)
		end := off + rollWindow
		if off < size {
			var err error
			if pieces, err = im.pieces(off, min(rollWindow, size-off), uint64(from), pieces[:0]); err != nil {
				return err
			}
			newest(pieces, off, touched)
		}
		if once > size && size < end { // see roller.volume: the rest becomes a hole
			for i := max(0, size-off) / digest.Chunk; i < int64(len(touched)); i++ {
				touched[i] = math.MaxUint64
			}
		}
		if err := h.forgetWindow(off/digest.Chunk, touched); err != nil {
			return err
		}
	}
	if err := h.f.Sync(); err != nil {
		return fmt.Errorf("sync kept hashes: %w", err)
	}
	return nil
}

// newest raises list[i] to one above the newest seq of the pieces that touch
// chunk i, counted from off on. Pieces of no entry do not count.
func newest(pieces []index.Piece, off int64, list []uint64) {
	for _, p := range pieces {
		if p.Kind == index.None {
			continue
		}
		for i := (p.Off - off) / digest.Chunk; i <= (p.Off+p.Len-1-off)/digest.Chunk; i++ {
			list[i] = max(list[i], p.Seq+1)
		}
	}
}

// recordsPerPage are rewritten together.
const recordsPerPage = hashPage / hashRecord

// forgetWindow takes away the records, from chunk first on, that are older than
// the newest touch. A page with one to take away is written even if it looks as
// if that had been done: by a process that was killed before the sync, perhaps.
func (h *hashFile) forgetWindow(first int64, touched []uint64) error {
	page := make([]byte, hashPage)
	for i := 0; i < len(touched); i += recordsPerPage {
		part := touched[i:min(i+recordsPerPage, len(touched))]
		if all(part, 0) {
			continue
		}
		at := recordAt(first + int64(i))
		n, err := h.f.ReadAt(page, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read kept hashes: %w", err)
		}
		n -= n % hashRecord
		changed := false
		for k := 0; k < len(part) && k < n/hashRecord; k++ {
			record := page[k*hashRecord:][:hashRecord]
			if part[k] == 0 {
				continue
			}
			if r := h.decode(first+int64(i+k), record); !r.ok || r.seq+1 < part[k] {
				clear(record)
				changed = true
			}
		}
		if !changed {
			continue
		}
		if _, err := h.f.WriteAt(page[:n], at); err != nil {
			return fmt.Errorf("write kept hashes: %w", err)
		}
	}
	return nil
}

func all(list []uint64, v uint64) bool {
	for _, x := range list {
		if x != v {
			return false
		}
	}
	return true
}
