package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/rephub/rephub/internal/vfs"
)

// walker reads all of a journal's files, going on behind whatever is damaged.
// It changes nothing. The oldest segments may be dropped meanwhile.
type walker struct {
	fs  vfs.FS
	dir string

	segment func(name string, h *segmentHeader, bytes int64) error
	batch   func(r *batchReader, off int64, b *batch) error
	flaw    func(at Pos, e CorruptError)

	chain  chain
	intact bool // chain is that of the last batch read; nothing was skipped
	length int64
	synced Pos // the highest place that anything called durable
	group  *GroupID
}

func (w *walker) walk() error {
	path := func(n uint32) string { return filepath.Join(w.dir, segmentName(n)) }
	numbers, err := listSegments(w.fs, w.dir)
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		return fmt.Errorf("no segment in %s: %w", w.dir, os.ErrNotExist)
	}
	next, first := numbers[0], true
	for len(numbers) > 0 {
		n := numbers[0]
		if n != next {
			w.flaw(Pos{Segment: next}, CorruptError{File: path(next), Detail: fmt.Sprintf("%d segment files are missing", n-next)})
			w.intact = false
		}
		err := w.file(path(n), n, first)
		if errors.Is(err, os.ErrNotExist) {
			// Retention may have dropped it since the look at the folder.
			now, lerr := listSegments(w.fs, w.dir)
			if lerr != nil || len(now) == 0 || now[0] <= n {
				return err
			}
			numbers, next, w.intact = now, now[0], false
			continue
		}
		if err != nil {
			return err
		}
		numbers, next, first = numbers[1:], n+1, false
	}
	return nil
}

// file reads one segment.
func (w *walker) file(name string, n uint32, first bool) error {
	f, err := w.fs.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("open segment: %w", err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err
	}
	h, flaw, err := readSegmentHeader(f, name, n, make([]byte, segmentBlock), true)
	if err != nil {
		return err
	}
	r := &batchReader{segReader: segReader{f: f, size: size}, name: name, segment: n, sealer: newSealer()}
	if flaw != nil {
		if r.anyGroup = w.group == nil; !r.anyGroup {
			r.group = *w.group
		}
		off, err := w.skip(r, 0, n, flaw)
		if err != nil || off < 0 {
			return err
		}
		return w.batches(r, off)
	}
	w.join(&h, name, first)
	r.group = h.group
	if w.segment != nil {
		if err := w.segment(name, &h, size); err != nil {
			return err
		}
	}
	w.chain, w.intact = chainAt(&h), true
	w.vouch(h.synced)
	return w.batches(r, h.size)
}

func (w *walker) vouch(p Pos) {
	if w.synced.Before(p) {
		w.synced = p
	}
}

// join compares a segment's header with the end of the segment before.
func (w *walker) join(h *segmentHeader, name string, first bool) {
	if w.group == nil {
		w.group = &h.group
	}
	at := Pos{Segment: h.number}
	bad := func(off, n int64, format string, args ...any) {
		w.flaw(at, CorruptError{File: name, Offset: off, Len: n, Detail: fmt.Sprintf(format, args...)})
	}
	if *w.group != h.group {
		bad(16, 16, "segment of group %s in a journal of group %s", h.group, *w.group)
	}
	if first || !w.intact {
		return
	}
	if flaw := joinFlaw(w.chain, *h, name, nil); flaw != nil {
		w.flaw(at, *flaw)
	}
	if w.length < h.prevLen {
		bad(80, 8, "the segment before had %d bytes, now it has %d", h.prevLen, w.length)
	}
	have, err := json.Marshal(&w.chain.tl)
	want, err2 := json.Marshal(&h.timeline)
	if err != nil || err2 != nil || !bytes.Equal(have, want) {
		bad(segmentFixed, h.size-segmentFixed, "the timeline is not that of the records before")
	}
}

// batches reads a segment's batches from off on.
func (w *walker) batches(r *batchReader, off int64) error {
	for {
		b, err := r.read(off, true)
		if errors.Is(err, io.EOF) {
			w.length = off
			return nil
		}
		var flaw *CorruptError
		if errors.As(err, &flaw) {
			w.length = off
			if off, err = w.skip(r, off, r.segment, flaw); err != nil || off < 0 {
				return err
			}
			continue
		} else if err != nil {
			return err
		}
		w.follow(r, off, b)
		w.vouch(b.synced)
		if w.batch != nil {
			if err := w.batch(r, off, b); err != nil {
				return err
			}
		}
		off += b.size
	}
}

// follow holds a batch, whole in itself, against the ones before.
func (w *walker) follow(r *batchReader, off int64, b *batch) {
	at := Pos{r.segment, off}
	for _, e := range b.bad {
		w.flaw(at, e)
	}
	if b.kind == KindControl && len(b.bad) > 0 {
		w.intact = false
	}
	if !w.intact {
		// Control records may have been lost with what was skipped: the rules
		// that span batches hold again from the next segment on.
		w.chain.hash, w.chain.last, w.chain.time = b.hash, b.batchHeader.last, b.lastTime
		return
	}
	body := func(e placed) ([]byte, error) {
		p := make([]byte, e.PayloadLen)
		_, err := r.f.ReadAt(p, e.pos)
		return p, err
	}
	if err := w.chain.follow(b, body); err != nil {
		if len(b.bad) == 0 {
			w.flaw(at, *r.flaw(off, b.size, "%v", err))
		}
		w.intact = false
		w.chain.hash, w.chain.last, w.chain.time = b.hash, b.batchHeader.last, b.lastTime
	}
}

// skip looks for the next whole batch behind a flaw at off, and reports all that
// lies between. Negative when there is none.
func (w *walker) skip(r *batchReader, off int64, n uint32, flaw *CorruptError) (int64, error) {
	w.intact = false
	next, err := nextBatch(r, off+8)
	if err != nil {
		return -1, err
	}
	end := next
	if next < 0 {
		end = r.size
	}
	flaw.Len = max(flaw.Offset+flaw.Len, end) - min(flaw.Offset, off)
	flaw.Offset = min(flaw.Offset, off)
	w.flaw(Pos{n, off}, *flaw)
	return next, nil
}
