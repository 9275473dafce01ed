package tap

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Trim gives back the memory of chunks that have been free since the call before; when the ring is empty and idle, all memory. It is
// meant to be called every second or so, by one goroutine.
func (p *Producer) Trim() error {
	p.mu.Lock()
	spare := p.mu.chunks.spare
	idle := p.mu.head == p.mu.trimmed
	p.mu.trimmed = p.mu.head
	p.mu.chunks.spare = len(p.mu.chunks.hot)
	p.mu.Unlock()
	for range spare { // one at a time: the lock is held for a fraction of a millisecond
		if err := p.trimFree(); err != nil {
			return err
		}
	}
	if idle {
		return p.trimCurrent()
	}
	return nil
}

// trimFree gives back the chunk that has been free for longest.
func (p *Producer) trimFree() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &p.mu.chunks
	if len(c.hot) == 0 {
		return nil
	}
	id := c.hot[0]
	if err := p.punchLocked(id); err != nil {
		return err
	}
	c.hot = append(c.hot[:0], c.hot[1:]...)
	c.cold = append(c.cold, id)
	c.spare = min(c.spare, len(c.hot))
	return nil
}

// trimCurrent gives back the chunk that the next entry goes to, if nothing in it is needed.
func (p *Producer) trimCurrent() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.seeTailLocked() || p.mu.tail != p.mu.head || p.mu.head%p.ring.chunk == 0 {
		return nil
	}
	return p.punchLocked(p.mu.chunks.at(p.mu.head / p.ring.chunk))
}

// punchLocked gives a chunk's pages back to the system. They read as zeroes.
func (p *Producer) punchLocked(id uint32) error {
	if !p.mu.chunks.pages[id] {
		return nil
	}
	off := uint64(id) * p.ring.chunk
	if p.ring.memfd < 0 {
		clear(p.ring.data[off : off+p.ring.chunk])
	} else if err := unix.Fallocate(p.ring.memfd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
		int64(dataOff(uint64(len(p.ring.order)))+off), int64(p.ring.chunk)); err != nil {
		return fmt.Errorf("give back ring memory: %w", err)
	}
	p.mu.chunks.pages[id] = false
	p.cfg.Memory.give(int64(p.ring.chunk))
	return nil
}

// Close makes the ring void for good and gives its memory back to the budget. The ring itself is its owner's.
func (p *Producer) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.voidLocked(VoidAsked)
	p.cfg.Memory.give(p.mu.chunks.count() * int64(p.ring.chunk))
	clear(p.mu.chunks.pages)
}
