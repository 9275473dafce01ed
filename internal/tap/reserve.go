package tap

import (
	"sync/atomic"
	"time"
)

// payback is the part of the passing time that may be spent waiting for space again: 1/50.
const payback = 50

// reserveLocked finds size bytes in one piece, at most a chunk, moves head past them and returns their place in the data. It
// reports false when the ring is void, which it becomes when there is no space within the time allowed.
func (p *Producer) reserveLocked(size uint64) (uint64, bool) {
	if p.mu.void {
		return 0, false
	}
	for {
		if !p.seeTailLocked() {
			p.voidLocked(VoidCorrupt)
			return 0, false
		}
		at, err := p.placeLocked(size)
		if err == placed {
			return at, true
		}
		if !p.waitLocked() {
			p.voidLocked(err.reason())
			return 0, false
		}
	}
}

// seeTailLocked takes over how far the consumer is, and reports false when that cannot be.
func (p *Producer) seeTailLocked() bool {
	tail := p.ring.head.tail.Load()
	if tail == p.mu.tail {
		return true
	}
	if tail < p.mu.tail || tail > p.mu.head || tail%8 != 0 {
		return false
	}
	for n := p.mu.tail / p.ring.chunk; n < tail/p.ring.chunk; n++ {
		p.mu.chunks.release(n)
	}
	p.mu.tail = tail
	return true
}

// placement is how a search for space ended.
type placement int

const (
	placed placement = iota
	noSpace
	noMemory
)

func (p placement) reason() VoidReason {
	if p == noMemory {
		return VoidMemory
	}
	return VoidFull
}

// placeLocked finds the place for size bytes: in the chunk that head is in, or at the beginning of another one.
func (p *Producer) placeLocked(size uint64) (uint64, placement) {
	chunk, head := p.ring.chunk, p.mu.head
	n, off := head/chunk, head%chunk
	if off != 0 && off+size <= chunk {
		id := p.mu.chunks.at(n)
		if !p.mu.chunks.warm(id, p.cfg.Memory, int64(chunk)) {
			return 0, noMemory
		}
		p.mu.head += size
		return uint64(id)*chunk + off, placed
	}
	if off != 0 {
		n++
	}
	id, err := p.mu.chunks.take(n, p.cfg.Memory, int64(chunk))
	if err != placed {
		return 0, err
	}
	if off != 0 {
		old := uint64(p.mu.chunks.at(n-1))*chunk + off
		atomic.StoreUint32(word(p.ring.data, old), padMagic)
	}
	p.ring.order[n%uint64(len(p.ring.order))].Store(id)
	p.mu.head = n*chunk + size
	if left := p.mu.chunks.free(); left == len(p.ring.order)/2 {
		p.ring.signal() // a consumer that paces itself should hurry
	}
	return uint64(id) * chunk, placed
}

// waitLocked waits until the consumer releases something, and reports false when all patience is spent. It keeps the lock: nobody
// else could get space either, and the time that all of them wait together is bounded.
func (p *Producer) waitLocked() bool {
	now := time.Now()
	p.mu.patience = min(p.cfg.VoidAfter, p.mu.patience+now.Sub(p.mu.paidAt)/payback)
	p.mu.paidAt = now
	h := p.ring.head
	p.ring.signal()
	defer h.spaceWait.Store(0)
	for {
		left := p.mu.patience - time.Since(now)
		if left <= 0 {
			p.mu.patience = 0
			return false
		}
		h.spaceWait.Store(1)
		if h.tail.Load() == p.mu.tail {
			futexWait(&h.spaceWait, 1, left)
		}
		if h.tail.Load() != p.mu.tail {
			break
		}
	}
	p.mu.patience -= time.Since(now)
	p.mu.paidAt = time.Now()
	return true
}
