package agent

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/rephub/rephub/internal/vfs"
)

// budget bounds the bytes of all spools together.
type budget struct {
	limit int64
	used  atomic.Int64

	mu struct {
		sync.Mutex
		spools []*spool // that are open
	}
}

func (b *budget) enter(s *spool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.spools = append(b.mu.spools, s)
}

func (b *budget) leave(s *spool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.spools = slices.DeleteFunc(b.mu.spools, func(o *spool) bool { return o == s })
}

// reclaim has all spools give back what the hub has. An ack that comes while a
// segment is not synced yet frees nothing, and may be the last one.
func (b *budget) reclaim() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.mu.spools {
		s.reclaim()
	}
}

// SpoolFullError: the hub could not be reached for so long, or takes so little,
// that the spool has no room for more.
type SpoolFullError struct{ Limit int64 }

func (e *SpoolFullError) Error() string {
	return fmt.Sprintf("the spool has reached its %d MiB: new writes are not recorded until the hub has taken some of it", e.Limit>>20)
}

// Hint says what to do.
func (e *SpoolFullError) Hint() string {
	return "see whether the hub can be reached and has room; a larger --spool-size bridges a longer time; what was missed is then synced by itself"
}

// room is nil while n bytes more fit.
func (b *budget) room(n int64) error {
	if b.used.Load()+n <= b.limit {
		return nil
	}
	b.reclaim()
	if b.used.Load()+n > b.limit {
		return &SpoolFullError{b.limit}
	}
	return nil
}

// sparse tells whether the spools hold so little that a sync may add to it.
func (b *budget) sparse() bool {
	if b.used.Load() > b.limit/4 {
		b.reclaim()
	}
	return b.used.Load() <= b.limit/4
}

// space is what of the budget and of the disk there is, whichever is less.
func (b *budget) space(disk vfs.Space) vfs.Space {
	if b.used.Load() > b.limit/2 {
		b.reclaim()
	}
	left := max(0, b.limit-b.used.Load())
	if disk.Free < left {
		return disk
	}
	return vfs.Space{Total: b.limit, Free: left}
}

// share is the part of a budget that one spool uses.
type share struct {
	b   *budget
	has atomic.Int64
}

// set says how much the spool has now.
func (s *share) set(n int64) { s.b.used.Add(n - s.has.Swap(n)) }
