package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal/index"
)

// reindex makes the indexes that are missing, and puts those of segments that
// may not be durable yet into the indexer's queue.
func (l *Log) reindex() error {
	s := &l.st
	if first := s.segs[0].number; first > 1 {
		if err := l.set.DropThrough(first - 1); err != nil {
			return fmt.Errorf("forget indexes of dropped segments: %w", err)
		}
	}
	have := l.set.Segments()
	open := s.active.number
	if len(s.unsynced) > 0 {
		open = s.unsynced[0].number
	}
	for _, seg := range s.segs {
		if seg.number >= open {
			break
		}
		if _, ok := slices.BinarySearch(have, seg.number); ok {
			continue
		}
		m, err := l.indexSegment(seg)
		if err != nil {
			return err
		}
		if err := l.set.Install(seg.number, m); err != nil {
			return fmt.Errorf("index segment %d: %w", seg.number, err)
		}
		l.rec.Reindex++
	}
	for _, w := range s.unsynced {
		if _, ok := slices.BinarySearch(have, w.number); !ok {
			l.set.SetActive(w.mem)
			s.pending = append(s.pending, w)
		}
	}
	l.set.SetActive(s.active.mem)
	return nil
}

// indexSegment reads a sealed segment's entry headers into a new index.
func (l *Log) indexSegment(seg segment) (*index.Mem, error) {
	br, release, err := l.batches(seg)
	if err != nil {
		return nil, err
	}
	defer release()
	m := index.NewMem()
	for at := int64(seg.head); at < seg.length; at += br.b.size {
		b, err := br.read(at, false)
		if err != nil {
			return nil, fmt.Errorf("index segment %d: %w", seg.number, err)
		}
		addToIndex(m, b, seg.number)
	}
	return m, nil
}

// batches reads a segment's batches; release the file after use.
func (l *Log) batches(seg segment) (*batchReader, func(), error) {
	f, err := l.files.get(seg.number)
	if err != nil {
		return nil, nil, err
	}
	return &batchReader{segReader: segReader{f: f, size: seg.length}, name: l.path(seg.number),
		group: l.group, segment: seg.number, sealer: newSealer()}, f.release, nil
}

// Recover brings the log back after ErrSyncFailed. A failed sync says that the
// disk may lack what the page cache still shows, and a second sync would not
// tell. So every segment that is not known to be durable is read back and
// checked, written anew to another file, synced, and put in the old one's
// place; then appends go on, nothing is lost, and Durable is Appended.
//
// When what is read back is not what was appended, the error is a *CorruptError
// and the log stays as it is: Close and Open it; Open cuts it off before the
// damage (Recovered tells). The writes after that were never durable. The
// caller has to sync them from the source. Any other error: try again later.
func (l *Log) Recover() error {
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	l.mu.Lock()
	failed, closed := l.st.failed, l.st.closed
	l.mu.Unlock()
	if closed {
		return ErrClosed
	}
	if failed == nil {
		return nil
	}
	return l.rewriteUnsynced()
}

// rewriteUnsynced needs appendMu and syncMu, or a log that nobody has yet.
func (l *Log) rewriteUnsynced() error {
	l.mu.Lock()
	s := &l.st
	writers := append(slices.Clone(s.unsynced), s.active)
	s.active.length = s.tail
	l.mu.Unlock()
	var prev *segmentRun
	for _, w := range writers {
		run, err := l.rewrite(w, prev)
		if err != nil {
			return fmt.Errorf("rewrite segment %s: %w", w.name, err)
		}
		prev = run
	}
	if prev.chain.hash != l.appender.hash {
		return &CorruptError{File: s.active.name, Offset: prev.end, Detail: "the last batches are missing"}
	}
	if err := l.fs.SyncDir(l.dir); err != nil {
		return fmt.Errorf("%w: %w", ErrSyncFailed, err)
	}
	if err := l.fs.Remove(filepath.Join(l.dir, syncFailedMark)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l.mu.Lock()
	s.failed = nil
	s.durable, s.durableTL, s.durableNo = s.appended, s.timeline, s.serial
	s.synced, s.dirDirty = Pos{s.active.number, s.tail}, 0
	sealed := s.unsynced
	s.unsynced = nil
	for _, w := range sealed {
		w.synced = true
	}
	l.mu.Unlock()
	for _, w := range sealed {
		w.file.Close()
	}
	l.notify()
	return nil
}

// rewrite copies a segment to a new file, checks the copy, and puts it in the
// segment's place.
func (l *Log) rewrite(w *writer, prev *segmentRun) (*segmentRun, error) {
	temp := w.name + vfs.TempSuffix
	f, err := l.fs.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	run, err := l.fill(f, w, prev)
	if err == nil {
		err = l.fs.Rename(temp, w.name)
	}
	if err != nil {
		f.Close()
		l.fs.Remove(temp)
		return nil, err
	}
	w.file.Close() // its errors are known
	w.file = f
	l.files.drop(w.number)
	return run, nil
}

// fill writes the bytes of w to f, checks what f then holds, and syncs it.
func (l *Log) fill(f vfs.File, w *writer, prev *segmentRun) (*segmentRun, error) {
	r := segReader{f: w.file, size: w.length}
	for at := int64(0); at < w.length; at += window {
		p, err := r.bytes(at, int(min(window, w.length-at)))
		if err != nil {
			return nil, err
		}
		if _, err := f.WriteAt(p, at); err != nil {
			return nil, err
		}
	}
	h, flaw, err := readSegmentHeader(f, w.name, w.number, make([]byte, segmentBlock), true)
	if err != nil {
		return nil, err
	}
	if flaw == nil && prev != nil {
		flaw = joinFlaw(prev.chain, h, w.name, nil)
	}
	if flaw != nil {
		return nil, flaw
	}
	run, err := runSegment(f, w.name, &h, w.length)
	if err != nil {
		return nil, err
	}
	if run.flaw != nil {
		return nil, run.flaw
	}
	return &run, f.Sync()
}
