package tap

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Renew gives the ring up for a new, void one of at least its size, whose owner is the caller: for one that turned out corrupt, while taps are
// connected. What was not released is lost, and the seqs go on above it. The ring given up is returned; it has little memory left and must
// stay mapped until no connection writes any more: one that was in the middle of a write finishes it there.
func (p *Producer) Renew() (fresh, old *Ring, err error) {
	fresh, err = NewRing(p.ring.Size()) // only Renew changes ring, and the caller serialises
	if err != nil {
		return nil, nil, fmt.Errorf("renew ring: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.voidLocked(VoidCorrupt)
	old = p.ring
	p.cfg.Memory.give(p.mu.chunks.count() * int64(old.chunk))
	h := fresh.head
	h.reason.Store(uint32(VoidCorrupt))
	h.last.Store(uint64(p.mu.last))
	h.voids.Store(old.head.voids.Load())
	h.losses.Store(old.head.losses.Load())
	for i := range old.slots {
		from, to := &old.slots[i], &fresh.slots[i]
		to.volume.Store(from.volume.Load())
		to.state.Store(from.state.Load())
		to.size.Store(from.size.Load())
		to.offers.Store(from.offers.Load())
		to.losses.Store(from.losses.Load())
	}
	p.ring = fresh
	p.mu.head, p.mu.tail, p.mu.trimmed = 0, 0, 0
	p.mu.chunks = newChunks(len(fresh.order))
	return fresh, old, old.punch()
}

// punch gives all of the data's memory back to the system.
func (r *Ring) punch() error {
	if r.memfd < 0 {
		return nil
	}
	if err := unix.Fallocate(r.memfd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
		int64(dataOff(uint64(len(r.order)))), int64(len(r.data))); err != nil {
		return fmt.Errorf("give back ring memory: %w", err)
	}
	return nil
}
