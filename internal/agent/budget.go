package agent

import (
	"fmt"
	"sync/atomic"

	"github.com/rephub/rephub/internal/vfs"
)

// budget bounds the bytes of all spools together.
type budget struct {
	limit int64
	used  atomic.Int64
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
	if b.used.Load()+n > b.limit {
		return &SpoolFullError{b.limit}
	}
	return nil
}

// space is what of the budget and of the disk there is, whichever is less.
func (b *budget) space(disk vfs.Space) vfs.Space {
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
