package relay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/rephub/rephub/internal/giveway"
	"github.com/rephub/rephub/journal"
)

// session appends what one stream brings to the group's journal. Its goroutine
// appends, a second one syncs.
type session struct {
	cfg    *ReceiverConfig
	large  *semaphore.Weighted
	log    Journal
	st     *stream
	cancel context.CancelFunc
	done   chan struct{}
	dirty  chan struct{}  // to the syncer: something was appended
	serial journal.Serial // of the journal, as far as we know

	mu struct {
		sync.Mutex
		trouble [2]string // why nothing goes on: at appending, at syncing
		said    string
	}
}

const (
	appending = iota
	syncing
)

func (s *session) run(ctx context.Context, h Hello) error {
	end := s.log.End()
	if h.Epoch < end.Timeline.Epoch {
		return fmt.Errorf("%w: the spool is of epoch %d, the journal is in %d", ErrRefused, h.Epoch, end.Timeline.Epoch)
	}
	s.serial = end.Serial
	a := answer{Serial: end.Serial, Epoch: end.Timeline.Epoch, Last: end.Last, Durable: s.durable(), Window: s.cfg.Window}
	s.st.tell(func() {
		s.st.due.answer, s.st.window = mustJSON(a), s.cfg.Window
	})
	if a.Durable.Serial < a.Serial {
		poke(s.dirty)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	synced := make(chan struct{})
	go func() {
		defer close(synced)
		if err := s.syncAll(ctx); err != nil {
			cancel(err)
		}
	}()
	err := s.takeAll(ctx)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	cancel(nil)
	<-synced
	return err
}

// durable is what survives a power loss now. The timeline comes last: it is not
// older than the rest, whoever else syncs meanwhile.
func (s *session) durable() Ack {
	a := Ack{Serial: s.log.DurableSerial(), Seq: s.log.Durable()}
	t := s.log.DurableTimeline()
	a.Epoch, a.Open, a.Fence = t.Epoch, t.Open, t.LastFence.Seq
	a.Point, _ = t.Newest()
	return a
}

// takeAll appends whole batches as they come, and grants their bytes again.
func (s *session) takeAll(ctx context.Context) error {
	var have, spare []byte // have begins with a batch
	var extra int64        // granted on top for a batch larger than the window
	defer func() { s.large.Release(extra) }()
	for {
		used, freed := 0, int64(0)
		for len(have)-used >= batchHeader {
			size := batchSize(have[used:])
			if int64(len(have)-used) < size {
				break
			}
			if err := s.append(ctx, getBatch(have[used:used+int(size)])); err != nil {
				return err
			}
			giveway.Yield()
			used += int(size)
			freed += size - extra
			s.large.Release(extra)
			extra = 0
			if freed >= s.cfg.Window/4 {
				s.grant(freed)
				freed = 0
			}
		}
		have = append(have[:0], have[used:]...)
		if len(have) >= batchHeader && extra == 0 {
			size := batchSize(have)
			if size > maxBatch+batchHeader {
				return fmt.Errorf("%w: a batch of %d bytes, %d are possible", ErrProtocol, size-batchHeader, maxBatch)
			}
			if more := size - s.cfg.Window; more > 0 {
				if err := s.large.Acquire(ctx, more); err != nil {
					return err
				}
				extra = more
				freed += extra
			}
		}
		s.grant(freed)
		if cap(have) > int(2*s.cfg.Window) && len(have) == 0 {
			have = nil // a large batch is rare
		}
		in, err := s.st.take(ctx, spare)
		if err != nil {
			return err
		}
		if len(have) == 0 {
			have, spare = in, have[:0]
		} else {
			have, spare = append(have, in...), in[:0]
		}
	}
}

func (s *session) grant(n int64) {
	if n > 0 {
		s.st.tell(func() { s.st.due.grant += n })
	}
}

// take waits for bytes of the stream and returns them, in exchange for a buffer.
func (st *stream) take(ctx context.Context, spare []byte) (in []byte, err error) {
	err = st.await(ctx, st.came, func() bool {
		if len(st.in) == 0 {
			return false
		}
		in, st.in = st.in, spare
		return true
	})
	return in, err
}

// append puts a batch into the journal, however long the disk does not take it.
func (s *session) append(ctx context.Context, b journal.Batch) error {
	if b.Serial <= s.serial && b.Serial > 0 {
		return nil // it has it
	}
	if b.Serial != s.serial+1 {
		return fmt.Errorf("%w: batch %d came after batch %d", ErrProtocol, b.Serial, s.serial)
	}
	for {
		err := s.watch(appending, func() error { return s.log.Append(b) })
		switch {
		case err == nil:
			s.serial = b.Serial
			poke(s.dirty)
			return nil
		case s.log.Serial() != s.serial:
			return fmt.Errorf("%w: the journal is at batch %d, not at %d any more", ErrInterrupted, s.log.Serial(), s.serial)
		case errors.Is(err, journal.ErrFenced):
			return fmt.Errorf("%w: %w", ErrRefused, err)
		case errors.Is(err, journal.ErrGap), errors.Is(err, journal.ErrWouldRewrite):
			return fmt.Errorf("%w: batch %d: %w", ErrDiverged, b.Serial, err)
		case errors.Is(err, journal.ErrInvalid):
			return fmt.Errorf("%w: batch %d: %w", ErrProtocol, b.Serial, err)
		case errors.Is(err, journal.ErrClosed):
			return fmt.Errorf("%w: %w", ErrInterrupted, err)
		}
		if err := s.rest(ctx, s.cfg.RetryEvery); err != nil {
			return err
		}
	}
}

// syncAll makes durable what was appended and says so, not more often than it
// should, until ctx ends or the journal is closed.
func (s *session) syncAll(ctx context.Context) error {
	for {
		select {
		case <-s.dirty:
		case <-ctx.Done():
			return ctx.Err()
		}
		pause := s.cfg.SyncEvery
		begun := time.Now()
		err := s.watch(syncing, func() error {
			_, err := s.log.Sync()
			return err
		})
		if errors.Is(err, journal.ErrClosed) {
			return fmt.Errorf("%w: %w", ErrInterrupted, err)
		}
		if err != nil {
			poke(s.dirty)
			pause = s.cfg.RetryEvery
			begun = time.Now()
		}
		ack := s.durable()
		s.st.tell(func() { s.st.due.ack = &ack })
		if err := s.rest(ctx, time.Until(begun.Add(pause))); err != nil {
			return err
		}
	}
}

// rest waits, unless the session ends meanwhile.
func (s *session) rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watch does something to the disk, and tells the sender when it hangs or fails,
// and when it is well again.
func (s *session) watch(what int, do func() error) error {
	over := false
	t := time.AfterFunc(s.cfg.StallAfter, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !over {
			s.sayLocked(what, fmt.Sprintf("the disk has not answered for %s", s.cfg.StallAfter))
		}
	})
	err := do()
	t.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	over = true
	if err != nil {
		s.sayLocked(what, err.Error())
	} else {
		s.sayLocked(what, "")
	}
	return err
}

// sayLocked tells the sender what is new.
func (s *session) sayLocked(what int, trouble string) {
	s.mu.trouble[what] = trouble
	say := s.mu.trouble[appending]
	if say == "" {
		say = s.mu.trouble[syncing]
	}
	if say != s.mu.said {
		s.mu.said = say
		s.st.tell(func() { s.st.due.stall = mustJSON(stallMessage{clip(say)}) })
	}
}
