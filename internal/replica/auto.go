package replica

import (
	"errors"
	"slices"
	"time"

	"github.com/rephub/rephub/journal"
)

// AutoQuery asks for automatic checkpoints.
type AutoQuery struct {
	Every  time.Duration // of them; above zero
	Before time.Time     // only those at or before; zero: all
	Limit  int           // the newest so many
	// Settled is a time up to which all that was written is known to be in the journal.
	Settled time.Time
}

// Auto lists automatic checkpoints, oldest first, and tells whether there are older
// ones. An automatic checkpoint is the newest point of a stretch of time in which
// there is one, and is named by the stretch's end. Nothing is stored for it: it is
// read from the journal, and goes when its point does.
func (s *Store) Auto(q AutoQuery) (list []journal.Mark, more bool, err error) {
	ranges := s.Ranges()
	if len(ranges) == 0 || q.Limit <= 0 {
		return nil, false, nil
	}
	newest, before := ranges[len(ranges)-1].To, q.Before
	if before.IsZero() {
		before = time.Unix(0, 1<<62)
	}
	var last journal.Mark // its point is its own if it is above the next one's seq
	take := func(older journal.Seq, oldest bool) {
		if last.Seq == 0 || last.Seq >= newest && last.At.After(q.Settled) {
			return // it may get more points
		}
		if at, ok := pointUpTo(ranges, last.Seq); ok && (oldest || at > older) {
			list = append(list, journal.Mark{At: last.At, Seq: at})
		}
	}
	err = s.log.Marks(q.Every, before, func(m journal.Mark) bool {
		take(m.Seq, false)
		last = m
		return len(list) <= q.Limit && m.Seq >= ranges[0].From
	})
	if err != nil && !errors.Is(err, journal.ErrDropped) {
		return nil, false, err
	}
	if len(list) <= q.Limit {
		take(0, true)
	}
	if more = len(list) > q.Limit; more {
		list = list[:q.Limit]
	}
	slices.Reverse(list)
	return list, more, nil
}

// autoPoint is the point of an automatic checkpoint, which is the newest one up to
// its time.
func (s *Store) autoPoint(ranges []journal.SeqRange, at, now time.Time) (journal.Seq, bool) {
	seq, err := s.log.SeqAt(at)
	if err != nil || at.After(now) && seq >= s.log.Appended() {
		return 0, false
	}
	return pointUpTo(ranges, seq)
}
