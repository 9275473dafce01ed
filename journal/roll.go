package journal

import (
	"fmt"
	"os"

	"github.com/rephub/rephub/journal/index"
)

// room is the writer and the place for a batch: the active segment's end, or a
// new segment when the batch does not fit. It needs appendMu.
func (l *Log) room(d *draft) (*writer, int64, error) {
	l.mu.Lock()
	w, tail, head := l.st.active, l.st.tail, int64(l.st.segs[len(l.st.segs)-1].head)
	behind := len(l.st.pending) >= l.opt.MaxPending
	l.mu.Unlock()
	fits := tail+batchHeaderSize+d.body <= l.opt.SegmentBytes && w.entries+int(d.count) <= l.opt.SegmentEntries
	if fits || tail == head {
		return w, tail, nil
	}
	if behind {
		l.notify()
		return nil, 0, ErrBehind
	}
	if err := l.roll(); err != nil {
		return nil, 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.st.active, l.st.tail, nil
}

// roll seals the active segment and begins the next one. Nothing is synced:
// Sync and the indexer do that. It needs appendMu.
func (l *Log) roll() error {
	l.mu.Lock()
	s := &l.st
	h := segmentHeader{
		group: l.group, number: s.active.number + 1, epoch: s.timeline.Epoch,
		firstSeq: s.appended + 1, firstTime: s.time, prev: l.appender.hash,
		prevLen: s.tail, synced: s.synced, serial: s.serial, timeline: *s.timeline,
	}
	l.mu.Unlock()
	w, err := l.createSegment(&h)
	if err != nil {
		return err
	}
	if !l.opt.NoIndex {
		l.set.SetActive(w.mem)
	}
	l.mu.Lock()
	old := s.active
	old.length = s.tail
	s.segs[len(s.segs)-1].length = s.tail
	s.bytes += s.tail
	s.unsynced = append(s.unsynced, old)
	if !l.opt.NoIndex {
		s.pending = append(s.pending, old)
	}
	s.segs = append(s.segs, h.segment())
	s.active, s.tail = w, h.size
	s.dirDirty++
	l.mu.Unlock()
	l.notify()
	return nil
}

func (h *segmentHeader) segment() segment {
	return segment{number: h.number, head: uint32(h.size), firstSeq: h.firstSeq, firstTime: h.firstTime, serial: h.serial}
}

// createSegment makes the file of a new segment and writes its header.
func (l *Log) createSegment(h *segmentHeader) (*writer, error) {
	head, err := h.encode()
	if err != nil {
		return nil, err
	}
	name := l.path(h.number)
	f, err := l.fs.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create segment %s: %w", name, err)
	}
	if _, err := f.WriteAt(head, 0); err != nil {
		f.Close()
		l.fs.Remove(name)
		return nil, fmt.Errorf("write header of segment %s: %w", name, err)
	}
	return &writer{number: h.number, name: name, file: f, mem: index.NewMem()}, nil
}

// notify wakes the indexer.
func (l *Log) notify() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}
