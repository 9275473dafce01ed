package protect

import (
	"context"
	"fmt"
	gosync "sync"
	"time"

	"github.com/rephub/rephub/internal/vfs"
)

// defaultReserve in bytes; a twentieth of the disk if that is less.
const defaultReserve = 1 << 30

// spaceEvery is how long a look at the free space is believed.
const spaceEvery = 500 * time.Millisecond

// SpaceGuard watches the free space of a disk, and remembers its last look.
type SpaceGuard struct {
	// Dir is named in errors, StatFS looks at its disk.
	Dir    string
	StatFS func() (vfs.Space, error)
	// Reserve in bytes; 1 GiB or a twentieth of the disk if 0.
	Reserve int64

	mu   gosync.Mutex
	next time.Time
	err  error
}

// SpaceError: the journal stops before the disk is full, because everything
// else on that disk would fail next.
type SpaceError struct {
	Dir           string
	Free, Reserve int64 // bytes
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("the disk of %s has %d MiB free, %d MiB are kept in reserve: new writes are not recorded", e.Dir, e.Free>>20, e.Reserve>>20)
}

// Hint says what to do.
func (e *SpaceError) Hint() string {
	return "free space on that disk, or shorten the history; what was missed is then synced by itself"
}

// Check is nil while the disk has more than the reserve free. Once it had not, it
// needs a quarter more than the reserve, so as not to go back and forth.
func (s *SpaceGuard) Check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Before(s.next) {
		return s.err
	}
	space, err := s.StatFS()
	if err != nil {
		return fmt.Errorf("ask for the journal's free space: %w", err)
	}
	reserve := s.Reserve
	if reserve == 0 {
		reserve = min(defaultReserve, space.Total/20)
	}
	limit := reserve
	if s.err != nil {
		limit += reserve / 4
	}
	s.next, s.err = now.Add(spaceEvery), nil
	if space.Free < limit {
		s.err = &SpaceError{Dir: s.Dir, Free: space.Free, Reserve: reserve}
	}
	return s.err
}

func (g *Group) checkSpace() error { return g.space.Check() }

// syncRoom is nil when a sync may put something into the journal.
func (g *Group) syncRoom(ctx context.Context) error {
	if err := g.deps.Replica.SyncRoom(ctx); err != nil {
		return err
	}
	return g.checkSpace()
}
