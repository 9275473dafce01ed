package recovery

import (
	"errors"
	"fmt"
)

// Flush makes durable every change whose method returned before the call.
func (s *scratch) Flush() error {
	want := s.written.Load()
	s.flush.Lock()
	defer s.flush.Unlock()
	if err := s.ok(); err != nil {
		return err
	}
	if s.flush.flushed >= want {
		return nil // somebody else's flush began after our last change
	}
	want = s.written.Load()
	for from := int64(0); ; {
		list := s.durable.take(from, flushPages, s.flush.list[:0])
		s.flush.list = list
		if err := s.flushPages(list); err != nil {
			for _, n := range list {
				s.durable.mark(n, n)
			}
			if errors.Is(err, ErrScratchFailed) {
				s.fail()
			}
			return err
		}
		if len(list) < flushPages {
			break
		}
		from = list[len(list)-1] + 1
	}
	s.flush.flushed = want
	return nil
}

// flushPages copies the pages' bits, syncs the data, and writes the copies.
func (s *scratch) flushPages(list []int64) error {
	if n := len(list) * page; cap(s.flush.buf) < n {
		s.flush.buf = make([]byte, n)
	}
	buf := s.flush.buf[:len(list)*page]
	for i, n := range list {
		copy(buf[i*page+slotHeader:(i+1)*page], s.live.pageBits(n))
	}
	if err := s.data.Sync(); err != nil {
		return fmt.Errorf("%w: sync scratch data: %w", ErrScratchFailed, err)
	}
	if len(list) == 0 {
		return nil
	}
	return s.durable.write(list, buf)
}

// fail ends the layer: the kernel drops what it could not write, so nothing
// since the last good sync can be trusted, by a later run neither.
func (s *scratch) fail() {
	s.failed.Store(true)
	h := header{part: partLive, size: s.size, flags: flagFailed}
	// Best effort: the disk is failing. This run refuses everything anyhow.
	_, _ = s.liveFile.WriteAt(h.encode(), 0)
}
