// Package drill is when a group's nightly failover test is made: its schedule in the group's folder, and what has become of the last one.
package drill

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/proof"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/sealed"
)

// Grace is how late a drill may begin, for a hub that was down when it was due.
const Grace = time.Hour

// Schedule of a group's drills.
type Schedule struct {
	// At is the time of the day, HH:MM, in the time zone of the hub's host.
	At string `json:"at"`
	// Checks are made beside those of the plan.
	Checks proof.Checks `json:"checks"`
	// Since is when somebody has decided so: what was due before is not.
	Since time.Time `json:"since"`
	// Begun is when the last drill was due that was begun, or missed: none is begun twice.
	Begun time.Time `json:"begun,omitzero"`
	// Last is how the last one ended. One with an earlier Due than Begun is not the last one: that runs, or was interrupted.
	Last *Outcome `json:"last,omitempty"`
	// Success is when the last one ended that was passed.
	Success time.Time `json:"success,omitzero"`
}

// Outcome of a drill.
type Outcome struct {
	Due     time.Time     `json:"due"`
	Ended   time.Time     `json:"ended"`
	Outcome proof.Outcome `json:"outcome"` // or Missed
	RTO     time.Duration `json:"rto_ns,omitempty"`
	Report  string        `json:"report,omitempty"` // its id
	Reason  string        `json:"reason,omitempty"`
}

// Missed is the outcome of a drill that was not begun, because the hub was down for longer than Grace.
const Missed proof.Outcome = "missed"

// Parse reads a time of the day.
func Parse(at string) (hour, minute int, err error) {
	t, err := time.Parse("15:04", at)
	if err != nil || len(at) != len("15:04") {
		return 0, 0, fmt.Errorf("a time of the day like 02:30 is needed, not %q", at)
	}
	return t.Hour(), t.Minute(), nil
}

// on is when the drill of a day is due: once, also where the clocks are changed in that night.
func (s *Schedule) on(now time.Time, days int) time.Time {
	hour, minute, err := Parse(s.At)
	if err != nil { // nothing else is ever kept
		return time.Time{}
	}
	y, m, d := now.Date()
	return time.Date(y, m, d+days, hour, minute, 0, 0, now.Location())
}

// after is the time after which drills are still to be made. A time that was noted by a clock that went wrong holds up nothing for more than a day.
func (s *Schedule) after(now time.Time) time.Time {
	after := s.Since
	if s.Begun.After(after) {
		after = s.Begun
	}
	if after.After(now.Add(25 * time.Hour)) {
		return time.Time{}
	}
	return after
}

// Due tells whether a drill is due that was not begun, and since when. now is in the time zone that At is in.
func (s *Schedule) Due(now time.Time) (due time.Time, ok bool) {
	for _, days := range []int{0, -1} {
		if due = s.on(now, days); !due.After(now) {
			return due, due.After(s.after(now))
		}
	}
	return due, false
}

// Next is when the next drill is due.
func (s *Schedule) Next(now time.Time) time.Time {
	for _, days := range []int{0, 1} {
		if due := s.on(now, days); due.After(now) && due.After(s.after(now)) {
			return due
		}
	}
	return s.on(now, 2)
}

// Open says whether a drill was begun and has not ended, as far as is kept.
func (s *Schedule) Open() bool {
	return !s.Begun.IsZero() && (s.Last == nil || !s.Last.Due.Equal(s.Begun))
}

var fileKind = sealed.Kind{Magic: "rephub-drill", Version: 1}

// fileName is where it is in the group's folder.
const fileName = "drill"

// Errors callers branch on.
var (
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("the schedule of drills is closed")
	// ErrNone: the group has no drills.
	ErrNone = errors.New("no drills are scheduled")
)

// Store keeps a group's schedule in its folder. Its methods may be called at once; what they change is durable when they return.
type Store struct {
	fs   vfs.FS
	name string

	mu     sync.Mutex
	now    *Schedule // nil: none
	closed bool
}

// OpenStore reads the schedule in a group's folder, if there is one.
func OpenStore(fsys vfs.FS, dir string) (*Store, error) {
	s := &Store{fs: fsys, name: filepath.Join(dir, fileName)}
	var was Schedule
	err := fileKind.Read(fsys, s.name, &was)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		_, _, err = Parse(was.At)
	}
	if err != nil {
		return nil, err
	}
	s.now = &was
	return s, nil
}

// Get is a copy.
func (s *Store) Get() (Schedule, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil {
		return Schedule{}, false
	}
	return *s.now, true
}

// Set schedules drills; the first one is due after now. What became of earlier ones stays known.
func (s *Store) Set(at string, checks proof.Checks, now time.Time) error {
	if _, _, err := Parse(at); err != nil {
		return err
	}
	return s.change(func(was *Schedule) (*Schedule, error) {
		next := Schedule{}
		if was != nil {
			next = *was
		}
		next.At, next.Checks, next.Since = at, checks, now.UTC()
		return &next, nil
	})
}

// Begin notes that a drill begins that was due then.
func (s *Store) Begin(due time.Time) error {
	return s.change(func(was *Schedule) (*Schedule, error) {
		if was == nil {
			return nil, ErrNone
		}
		next := *was
		next.Begun = due.UTC()
		return &next, nil
	})
}

// End notes how the drill ended that was begun last. Schedules that were removed meanwhile stay so.
func (s *Store) End(o Outcome) error {
	return s.change(func(was *Schedule) (*Schedule, error) {
		if was == nil {
			return nil, nil
		}
		next := *was
		o.Due = was.Begun
		next.Last = &o
		if o.Outcome == proof.Passed {
			next.Success = o.Ended
		}
		return &next, nil
	})
}

// Miss notes that a drill was missed that was due then.
func (s *Store) Miss(due, now time.Time) error {
	if err := s.Begin(due); err != nil {
		return err
	}
	return s.End(Outcome{Ended: now.UTC(), Outcome: Missed, Reason: "the hub was down when it was due, and longer than " + Grace.String()})
}

// Remove ends the drills.
func (s *Store) Remove() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return ErrClosed
	case s.now == nil:
		return ErrNone
	}
	if err := s.fs.Remove(s.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.now = nil
	return s.fs.SyncDir(filepath.Dir(s.name))
}

// change replaces the schedule by what do makes of it; nil: it stays as it is.
func (s *Store) change(do func(was *Schedule) (*Schedule, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	next, err := do(s.now)
	if err != nil || next == nil {
		return err
	}
	if err := fileKind.Write(s.fs, s.name, next); err != nil {
		return err
	}
	s.now = next
	return nil
}

// Close returns when nothing is written any more; the folder may be removed then.
func (s *Store) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}
