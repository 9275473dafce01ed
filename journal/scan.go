package journal

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"time"
)

// segments is a snapshot of the segments from the one that is the last to begin
// at or below from; all but the last are sealed.
func (l *Log) segments(from Seq) []segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.st
	i := sort.Search(len(s.segs), func(i int) bool { return s.segs[i].firstSeq > from })
	segs := slices.Clone(s.segs[max(i-1, 0):])
	segs[len(segs)-1].length = s.tail
	return segs
}

// Scan visits every entry whose seq is at least from, in the order of the log,
// up to what was appended when it was called: writes, sync data and control
// records. payload reads and checks the entry's payload; call it before visit
// returns. The first error of visit ends the scan and is returned. ErrDropped
// when a segment goes away meanwhile.
func (l *Log) Scan(from Seq, visit func(h Header, payload func() ([]byte, error)) error) error {
	var prev *Hash
	for _, seg := range l.segments(from) {
		if err := l.scanSegment(seg, from, &prev, visit); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) scanSegment(seg segment, from Seq, prev **Hash, visit func(Header, func() ([]byte, error)) error) error {
	br, release, err := l.batches(seg)
	if err != nil {
		return err
	}
	defer release()
	for at := int64(seg.head); at < seg.length; at += br.b.size {
		b, err := br.read(at, false)
		if err != nil {
			return err
		}
		if *prev != nil && **prev != b.prev {
			return br.flaw(at, b.size, "hash of the batch before is %x, %x expected", b.prev, **prev)
		}
		hash := b.hash
		*prev = &hash
		for _, e := range b.entries {
			if e.Seq < from {
				continue
			}
			if err := visit(e.Header, func() ([]byte, error) { return br.payload(e) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// SeqAt is the newest seq whose time is at or before t. ErrNoSeq when the
// journal begins later.
func (l *Log) SeqAt(t time.Time) (Seq, error) {
	at := t.UnixNano()
	l.mu.Lock()
	s := &l.st
	if at >= s.time {
		defer l.mu.Unlock()
		return s.appended, nil
	}
	i := sort.Search(len(s.segs), func(i int) bool { return s.segs[i].firstTime > at }) - 1
	if i < 0 {
		defer l.mu.Unlock()
		return 0, fmt.Errorf("%w: it begins at %s", ErrNoSeq, time.Unix(0, s.segs[0].firstTime).UTC().Format(time.RFC3339))
	}
	seg := s.segs[i]
	if i == len(s.segs)-1 {
		seg.length = s.tail
	}
	l.mu.Unlock()
	return l.seqIn(seg, at)
}

// seqIn is the newest seq in or before a segment whose time is at most at.
func (l *Log) seqIn(seg segment, at int64) (Seq, error) {
	br, release, err := l.batches(seg)
	if err != nil {
		return 0, err
	}
	defer release()
	var buf [batchHeaderSize]byte
	found, place := seg.firstSeq-1, int64(-1)
	for off := int64(seg.head); off < seg.length; {
		if _, err := br.f.ReadAt(buf[:], off); err != nil {
			return 0, br.fail(err)
		}
		var b batchHeader
		if err := b.decode(buf[:]); err != nil {
			return 0, br.flaw(off, batchHeaderSize, "%v", err)
		}
		if b.firstTime > at {
			break
		}
		place = off
		off += batchHeaderSize + b.body
	}
	if place < 0 {
		return found, nil
	}
	b, err := br.read(place, false)
	if err != nil {
		return 0, err
	}
	for _, e := range b.entries {
		if e.Time > at {
			break
		}
		found = e.Seq
	}
	return found, nil
}

// DropBefore tells the log that the base image holds everything up to seq, and
// removes the segments that hold nothing above it, oldest first, with their
// indexes; never the active one. Points below seq leave the timeline. It works
// on a full disk and after ErrSyncFailed too.
func (l *Log) DropBefore(seq Seq) error {
	l.dropMu.Lock()
	defer l.dropMu.Unlock()
	if err := l.moveBase(seq); err != nil {
		return err
	}
	return l.dropWhile(func(next segment) bool { return next.firstSeq-1 <= seq })
}

// dropWhile removes the oldest segments, as long as superfluous says so to the one
// after it. It needs dropMu.
func (l *Log) dropWhile(superfluous func(next segment) bool) error {
	l.mu.Lock()
	s := &l.st
	n := 0
	for n < len(s.segs)-1 && superfluous(s.segs[n+1]) && !s.isPending(s.segs[n].number) {
		n++
	}
	gone := slices.Clone(s.segs[:n])
	if n > 0 {
		s.dropped = gone[n-1].number
	}
	l.mu.Unlock()
	if n == 0 {
		return nil
	}
	if err := l.set.DropThrough(gone[n-1].number); err != nil {
		return fmt.Errorf("drop indexes: %w", err)
	}
	for _, seg := range gone {
		if err := l.dropSegment(seg); err != nil {
			return err
		}
	}
	return nil
}

func (s *state) isPending(number uint32) bool {
	return slices.ContainsFunc(s.pending, func(w *writer) bool { return w.number == number }) ||
		slices.ContainsFunc(s.unsynced, func(w *writer) bool { return w.number == number })
}

// moveBase notes the base's seq in the log; if the log cannot take it now, the
// next call will.
func (l *Log) moveBase(seq Seq) error {
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	l.mu.Lock()
	epoch, base, appended := l.st.timeline.Epoch, l.st.timeline.Base, l.st.appended
	l.mu.Unlock()
	if seq > appended {
		return fmt.Errorf("%w: base at %d, the journal ends at %d", ErrInvalid, seq, appended)
	}
	if seq <= base {
		return nil
	}
	if err := l.appendControl(epoch, []Control{BaseMoved{Seq: seq}}); err != nil {
		l.opt.Logger.Warn("note the base's move", "seq", seq, "err", err)
	}
	return nil
}

// dropSegment removes one file durably, so that no crash leaves a gap between
// the files that stay.
func (l *Log) dropSegment(seg segment) error {
	// It is gone already when the sync after an earlier try failed.
	if err := l.fs.Remove(l.path(seg.number)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("drop segment: %w", err)
	}
	if err := l.fs.SyncDir(l.dir); err != nil {
		return fmt.Errorf("drop segment: %w", err)
	}
	l.files.drop(seg.number)
	l.mu.Lock()
	l.st.segs = l.st.segs[1:]
	l.st.bytes -= seg.length
	l.mu.Unlock()
	return nil
}
