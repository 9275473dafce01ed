package protect

import (
	"context"
	"errors"
	"fmt"
	gosync "sync"
	"time"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/sync"
	"github.com/rephub/rephub/journal"
)

// stream is the one way into a group's journal for data: what the taps wrote,
// and what a sync found. It keeps the two in an order that is right: what a sync
// read of a range that a tap wrote meanwhile is older, and is left out.
type stream struct {
	log Journal

	// order is held from the look at the tickets to the end of the append, so
	// that no tap write slips in between. The journal takes one batch at a time
	// anyway.
	order   gosync.Mutex
	tickets map[sync.Ticket]*ticket // guarded by order
	next    sync.Ticket

	dirty   chan struct{} // a hint, of capacity 1: there is something to make durable
	arrived chan struct{} // a hint, of capacity 1: taps have written

	progress struct {
		gosync.Mutex
		moved chan struct{} // closed when something was appended, if anybody waits
		ended error         // no more tap writes will come: the ring is gone or void
		hurry func()        // has what is gathered appended now; nil without a ring
	}
}

// unhurried is how long who waits for the journal leaves writes to be gathered.
const unhurried = 2 * time.Millisecond

// ticket is a range that a sync reads now.
type ticket struct {
	volume  journal.VolumeID
	r       block.Range
	written block.RangeSet // by the tap since Begin
}

func newStream(log Journal) *stream {
	return &stream{log: log, tickets: map[sync.Ticket]*ticket{}, dirty: make(chan struct{}, 1), arrived: make(chan struct{}, 1)}
}

// appendWrites appends a batch of tap writes. The caller's regions as for journal.Append.
func (s *stream) appendWrites(b journal.Batch) error {
	s.order.Lock()
	defer s.order.Unlock()
	if len(s.tickets) > 0 {
		if err := s.note(b.Regions); err != nil {
			return err
		}
	}
	if err := s.log.Append(b); err != nil {
		return err
	}
	s.wake()
	hint(s.arrived)
	return nil
}

// note marks what a batch overwrites of the ranges being read.
func (s *stream) note(regions [][]byte) error {
	for _, p := range regions {
		for len(p) > 0 {
			h, err := journal.DecodeHeader(p)
			if err != nil {
				return fmt.Errorf("look at tap writes: %w", err)
			}
			w := block.Range{Off: h.Off, Len: int64(h.Len)}
			for _, t := range s.tickets {
				if t.volume == h.Volume && t.r.Overlaps(w) {
					t.written.Add(t.r.Intersect(w))
				}
			}
			if h.Size() > len(p) {
				return fmt.Errorf("look at tap writes: entry %d is cut off", h.Seq)
			}
			p = p[h.Size():]
		}
	}
	return nil
}

func (s *stream) wake() {
	s.touch()
	s.progress.Lock()
	defer s.progress.Unlock()
	if s.progress.moved != nil {
		close(s.progress.moved)
		s.progress.moved = nil
	}
}

// touch tells the flusher that there is something to do.
func (s *stream) touch() { hint(s.dirty) }

// hint sends to a channel of capacity 1 unless it is full.
func hint(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// control appends control records in the epoch given.
func (s *stream) control(epoch journal.Epoch, recs ...journal.Control) error {
	defer s.touch()
	return s.log.AppendControl(epoch, recs...)
}

// waitAppended returns when the journal has everything up to seq, and sees to it that this is not gathered for long.
func (s *stream) waitAppended(ctx context.Context, seq journal.Seq) error {
	late := time.NewTimer(unhurried)
	defer late.Stop()
	for {
		s.progress.Lock()
		if s.progress.moved == nil {
			s.progress.moved = make(chan struct{})
		}
		moved, ended, hurry := s.progress.moved, s.progress.ended, s.progress.hurry
		s.progress.Unlock()
		if s.log.Appended() >= seq {
			return nil
		}
		if ended != nil {
			return ended
		}
		select {
		case <-moved:
		case <-late.C:
			if hurry != nil {
				hurry()
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// begin lets those who wait for tap writes wait: they come again, and hurry (may be nil) has what is gathered of them appended.
func (s *stream) begin(hurry func()) {
	s.progress.Lock()
	defer s.progress.Unlock()
	s.progress.ended, s.progress.hurry = nil, hurry
}

// end fails everybody who waits, and will wait, for tap writes.
func (s *stream) end(err error) {
	s.progress.Lock()
	s.progress.ended, s.progress.hurry = err, nil
	s.progress.Unlock()
	s.wake()
}

// syncStream is sync.Stream for one volume and one epoch.
type syncStream struct {
	*stream
	volume journal.VolumeID
	epoch  journal.Epoch
	last   func() journal.Seq          // newest seq that the taps were given
	room   func(context.Context) error // waits for room in the journal; may be nil
}

var _ sync.Stream = (*syncStream)(nil)

// Begin implements sync.Stream.
func (s *syncStream) Begin(r block.Range) sync.Ticket {
	s.order.Lock()
	defer s.order.Unlock()
	s.next++
	s.tickets[s.next] = &ticket{volume: s.volume, r: r}
	return s.next
}

// End implements sync.Stream.
func (s *syncStream) End(t sync.Ticket) {
	s.order.Lock()
	defer s.order.Unlock()
	delete(s.tickets, t)
}

// Commit implements sync.Stream. A write that had its seq when the data had been
// read is in the journal before the data is looked at; one that gets its seq
// later comes after the data in the journal and wins. Writes drained since Begin
// may be older than the read: then what was read there equals what they, or a
// later write, put there, and leaving it out loses nothing.
func (s *syncStream) Commit(ctx context.Context, id sync.Ticket, r block.Range, data []byte) error {
	if data != nil && int64(len(data)) != r.Len {
		return fmt.Errorf("commit %d bytes for a range of %d", len(data), r.Len)
	}
	if s.room != nil {
		if err := s.room(ctx); err != nil {
			return err
		}
	}
	if err := s.waitAppended(ctx, s.last()); err != nil {
		return err
	}
	s.order.Lock()
	defer s.order.Unlock()
	t, ok := s.tickets[id]
	if !ok || r.Off < t.r.Off || r.End() > t.r.End() {
		return errors.New("commit outside of the range begun")
	}
	var pieces []journal.SyncWrite
	for _, left := range t.written.Missing(r, nil) {
		w := journal.SyncWrite{Volume: s.volume, Off: left.Off, Len: left.Len}
		if data != nil {
			w.Data = data[left.Off-r.Off : left.End()-r.Off]
		}
		pieces = append(pieces, w)
	}
	if len(pieces) == 0 {
		return nil
	}
	defer s.touch()
	if err := s.log.AppendSyncs(s.epoch, pieces); err != nil {
		return fmt.Errorf("store sync data of volume %d: %w", s.volume, err)
	}
	return nil
}
