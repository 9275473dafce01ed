package replica

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rephub/rephub/journal"
)

// Ranges are the seqs that can be mounted now: fenced, durable, and not older
// than the oldest point kept. Ascending.
func (s *Store) Ranges() []journal.SeqRange {
	tl := s.log.DurableTimeline()
	return clipRanges(tl.Ranges, s.Manifest().Oldest)
}

func clipRanges(ranges []journal.SeqRange, oldest journal.Seq) []journal.SeqRange {
	var out []journal.SeqRange
	for _, r := range ranges {
		if r.To >= oldest {
			out = append(out, journal.SeqRange{From: max(r.From, oldest), To: r.To})
		}
	}
	return out
}

// Resolve finds the seq that a point means now, and the time of that seq. For
// a time it is the newest point at or before it. A seq or a checkpoint must be
// a point itself. ErrNoPoint when there is none.
func (s *Store) Resolve(p journal.Point, now time.Time) (journal.Seq, time.Time, error) {
	at, err := s.resolve(p, now)
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("find point %s: %w", p, err)
	}
	t, err := s.TimeOf(at)
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("find time of point %s: %w", p, err)
	}
	return at, t, nil
}

func (s *Store) resolve(p journal.Point, now time.Time) (journal.Seq, error) {
	ranges := s.Ranges()
	if len(ranges) == 0 {
		return 0, fmt.Errorf("%w: there is none yet", ErrNoPoint)
	}
	at := p.Seq
	switch p.Kind {
	case journal.PointLatest:
		return ranges[len(ranges)-1].To, nil
	case journal.PointTime, journal.PointAgo:
		t := p.Time
		if p.Kind == journal.PointAgo {
			t = now.Add(-p.Ago)
		}
		seq, err := s.log.SeqAt(t)
		if err == nil {
			if at, ok := pointUpTo(ranges, seq); ok {
				return at, nil
			}
		} else if !errors.Is(err, journal.ErrNoSeq) {
			return 0, err
		}
		return 0, fmt.Errorf("%w: the oldest is %d", ErrNoPoint, ranges[0].From)
	case journal.PointCheckpoint:
		tl := s.log.DurableTimeline()
		i := slices.IndexFunc(tl.Checkpoints, func(c journal.Checkpoint) bool { return c.Name == p.Name })
		if i < 0 {
			if t, ok := journal.ParseAutoName(p.Name); ok {
				if at, ok := s.autoPoint(ranges, t, now); ok {
					return at, nil
				}
			}
			return 0, fmt.Errorf("%w: no checkpoint has this name", ErrNoPoint)
		}
		at = tl.Checkpoints[i].Seq
	}
	if !slices.ContainsFunc(ranges, func(r journal.SeqRange) bool { return r.Contains(at) }) {
		return 0, fmt.Errorf("%w: %d is outside of %v", ErrNoPoint, at, ranges)
	}
	return at, nil
}

var errFound = errors.New("found")

// TimeOf is the time of the write with that seq; if the journal no longer has
// it, of the first one after it. It reads a segment's headers.
func (s *Store) TimeOf(at journal.Seq) (time.Time, error) {
	var t time.Time
	err := s.log.Scan(at, func(h journal.Header, _ func() ([]byte, error)) error {
		t = h.Wall()
		return errFound
	})
	if err == nil {
		err = fmt.Errorf("%w: %d", ErrNoPoint, at)
	}
	if errors.Is(err, errFound) {
		err = nil
	}
	return t, err
}

// Volumes lists the volumes that the group had at a point, with their sizes
// and names then. ErrNoPoint when at is no point, or no longer.
func (s *Store) Volumes(at journal.Seq) ([]Volume, error) {
	tl := s.log.Timeline()
	if !tl.IsPoint(at) || at < s.Manifest().Oldest {
		return nil, fmt.Errorf("list volumes at %d: %w", at, ErrNoPoint)
	}
	var out []Volume
	for _, v := range tl.Volumes {
		if size, ok := v.At(at); ok {
			out = append(out, Volume{ID: v.ID, UUID: v.UUID, Name: v.Name, Size: size})
		}
	}
	return out, nil
}
