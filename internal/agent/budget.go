package agent

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/rephub/rephub/internal/vfs"
)

// budget bounds the bytes of all spools together, and of those that were put
// aside: these are kept as long as nobody needs their room.
type budget struct {
	limit int64
	used  atomic.Int64

	mu struct {
		sync.Mutex
		spools []*spool         // that are open
		aside  map[string]int64 // bytes of folders
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

// keep counts the folder of a spool that was put aside, as it is now: there, gone, or another.
func (b *budget) keep(dir string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, err := sizeOf(dir)
	if err != nil {
		return fmt.Errorf("measure the spool put aside: %w", err)
	}
	b.used.Add(n - b.mu.aside[dir])
	if b.mu.aside == nil {
		b.mu.aside = map[string]int64{}
	}
	b.mu.aside[dir] = n
	return nil
}

func sizeOf(dir string) (n int64, err error) {
	list, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	for _, e := range list {
		if info, err := e.Info(); err == nil {
			n += info.Size()
		}
	}
	return n, err
}

// dropAside removes what was put aside. What cannot be removed still counts.
func (b *budget) dropAside() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for dir, n := range b.mu.aside {
		if n > 0 && os.RemoveAll(dir) == nil {
			b.used.Add(-n)
			delete(b.mu.aside, dir)
		}
	}
}

// fits makes room until no more than limit bytes are used, and tells whether it could.
func (b *budget) fits(limit int64) bool {
	if b.used.Load() <= limit {
		return true
	}
	if b.reclaim(); b.used.Load() > limit {
		b.dropAside()
	}
	return b.used.Load() <= limit
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
	if !b.fits(b.limit - n) {
		return &SpoolFullError{b.limit}
	}
	return nil
}

// sparse tells whether the spools hold so little that a sync may add to it.
func (b *budget) sparse() bool { return b.fits(b.limit / 4) }

// space is what of the budget and of the disk there is, whichever is less.
func (b *budget) space(disk vfs.Space) vfs.Space {
	b.fits(b.limit / 2)
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
