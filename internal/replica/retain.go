package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rephub/rephub/journal"
)

// Retention says how much history is kept.
type Retention struct {
	// History is promised: points younger than that stay, whatever the size.
	// 0 promises nothing: MaxBytes alone decides.
	History time.Duration
	// MaxBytes is what the journal may take. With History, Retain only tells
	// when it takes more; without, the oldest points go until it fits. 0: no limit.
	MaxBytes int64
}

// Result of Retain.
type Result struct {
	Oldest       journal.Seq // the oldest point kept
	Moved        bool        // it is not what it was before
	BytesWritten int64       // to base images
	JournalBytes int64       // what the journal takes now
	// Over: the journal takes more than MaxBytes, and what is promised or
	// pinned forbids to drop more. The caller stops taking writes (void mode)
	// or lives with it; history is never touched (law 4).
	Over bool
	// Held is the pin or checkpoint that kept the oldest point from moving as
	// far as the policy allows; 0 if none.
	Held journal.Seq
}

// Retain moves the oldest point kept forward as far as the policy, the pins
// and the checkpoints allow, and gives back the space of what is before it.
//
// The order is law. (a) The new oldest point is made durable in the manifest:
// older ones are refused from then on. (b) Every block written up to it is
// written into the base once, and the base synced. (c) The manifest notes that
// the base is there. (d) Segments go. A crash or an error in between is
// repeated by the next Retain, never repaired; meanwhile reads consult the
// journal above the old base. Long ways are gone in steps of Config.StepSeqs.
// When ctx ends, Retain ends soon, with its error.
func (s *Store) Retain(ctx context.Context, now time.Time, pol Retention) (res Result, err error) {
	s.retaining.Lock()
	defer s.retaining.Unlock()
	before := s.Manifest().Oldest
	defer func() {
		res.Oldest = s.Manifest().Oldest
		res.Moved = res.Oldest != before
		res.JournalBytes = s.log.Bytes()
		res.Over = pol.MaxBytes > 0 && res.JournalBytes > pol.MaxBytes
	}()
	if err := s.finish(ctx, &res); err != nil {
		return res, err
	}
	for {
		if err := ctx.Err(); err != nil {
			return res, err
		}
		target, ok := s.target(now, pol, &res)
		if !ok {
			return res, nil
		}
		if !s.announce(target) {
			return res, nil // pinned this very moment; the next Retain sees it
		}
		if err := s.finish(ctx, &res); err != nil {
			return res, err
		}
	}
}

// target chooses the oldest point of the next step; false: there is no step.
func (s *Store) target(now time.Time, pol Retention, res *Result) (journal.Seq, bool) {
	tl := s.log.DurableTimeline()
	m := s.Manifest()
	want, ok := s.allowed(&tl, m.Base, now, pol)
	if !ok {
		return 0, false
	}
	if held := s.held(&tl); held != 0 && held < want {
		want, res.Held = held, held
	}
	if want > m.Base && uint64(want-m.Base) > s.cfg.StepSeqs {
		// The first point at or after the step's end, if it is not too far.
		if at, ok := pointFrom(tl.Ranges, m.Base+journal.Seq(s.cfg.StepSeqs)); ok && at < want {
			want = at
		}
	}
	want, ok = pointUpTo(tl.Ranges, want)
	return want, ok && want > m.Base
}

// allowed is the newest seq that policy alone would have as the oldest point.
func (s *Store) allowed(tl *journal.Timeline, base journal.Seq, now time.Time, pol Retention) (journal.Seq, bool) {
	newest, ok := tl.Newest()
	if !ok {
		return 0, false
	}
	if pol.History > 0 {
		at, err := s.log.SeqAt(now.Add(-pol.History))
		return min(at, newest), err == nil
	}
	size := s.log.Bytes()
	if pol.MaxBytes <= 0 || size <= pol.MaxBytes || newest <= base {
		return 0, false
	}
	// Writes are taken to be of one size; what is wrong with that the next
	// step finds. Counted from the journal's begin: segments that wait for
	// their index cannot go yet, and are no reason to go further.
	first := s.log.FirstSeq()
	if first >= newest {
		return 0, false
	}
	gain := float64(newest-first) * float64(size-pol.MaxBytes) / float64(size)
	return min(newest, first+journal.Seq(gain)+1), true
}

// held is the lowest pin or checkpoint, 0 if there is none.
func (s *Store) held(tl *journal.Timeline) journal.Seq {
	seqs := s.Pinned()
	for _, c := range tl.Checkpoints {
		if tl.IsPoint(c.Seq) {
			seqs = append(seqs, c.Seq)
		}
	}
	if len(seqs) == 0 {
		return 0
	}
	return slices.Min(seqs)
}

// announce makes at the oldest point in memory, so that nobody pins an older
// one any more. False when somebody has.
func (s *Store) announce(at journal.Seq) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for pin := range s.mu.pins {
		if pin < at {
			return false
		}
	}
	s.mu.manifest.Oldest = max(s.mu.manifest.Oldest, at)
	return true
}

// finish does steps (a) to (d) for the oldest point announced, as far as they
// are not done.
func (s *Store) finish(ctx context.Context, res *Result) error {
	m := s.Manifest()
	if m.Oldest > m.Base {
		if err := s.change(func(m *Manifest) error { return nil }); err != nil {
			return fmt.Errorf("note the oldest point: %w", err)
		}
		n, err := s.roll(ctx, m.Base, m.Oldest)
		res.BytesWritten += n
		if err != nil {
			return fmt.Errorf("roll base from %d to %d: %w", m.Base, m.Oldest, err)
		}
		if err := s.change(func(x *Manifest) error { x.Base = m.Oldest; return nil }); err != nil {
			return fmt.Errorf("note the base's seq: %w", err)
		}
		s.base.Store(uint64(m.Oldest))
	}
	tl := s.log.Timeline()
	if m.Oldest == 0 || tl.Base >= m.Oldest && s.log.FirstSeq() > m.Oldest {
		return nil
	}
	if err := s.log.DropBefore(m.Oldest); err != nil && !errors.Is(err, journal.ErrDropped) {
		return fmt.Errorf("drop segments: %w", err)
	}
	return s.forgetVolumes(m.Oldest)
}

// forgetVolumes removes the base images of volumes that no point has any more.
func (s *Store) forgetVolumes(base journal.Seq) error {
	tl := s.log.DurableTimeline()
	for _, v := range tl.Volumes {
		if !v.Gone || v.Removed >= base || s.volume(v.ID) == nil {
			continue
		}
		err := s.change(func(m *Manifest) error {
			m.Volumes = slices.DeleteFunc(m.Volumes, func(x Volume) bool { return x.ID == v.ID })
			return nil
		})
		if err == nil {
			err = s.removeBase(v.ID)
		}
		if err != nil {
			return fmt.Errorf("remove base image of volume %d: %w", v.ID, err)
		}
	}
	return nil
}

func (s *Store) removeBase(id journal.VolumeID) error {
	s.mu.Lock()
	b := s.mu.bases[id]
	delete(s.mu.bases, id)
	s.mu.Unlock()
	return errors.Join(b.f.Close(), s.fs.Remove(b.name), s.hashFile(id).remove())
}

// pointUpTo is the newest point ≤ at.
func pointUpTo(ranges []journal.SeqRange, at journal.Seq) (journal.Seq, bool) {
	for _, r := range slices.Backward(ranges) {
		if r.From <= at {
			return min(at, r.To), true
		}
	}
	return 0, false
}

// pointFrom is the oldest point ≥ at.
func pointFrom(ranges []journal.SeqRange, at journal.Seq) (journal.Seq, bool) {
	for _, r := range ranges {
		if r.To >= at {
			return max(at, r.From), true
		}
	}
	return 0, false
}
