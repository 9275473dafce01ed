package tap

// chunks keeps the books on a ring's chunks, in the producer's own memory. Chunks are named by their place in the data; numbers count
// the chunks ever taken. It is guarded by the Producer's lock.
type chunks struct {
	order []uint32 // number modulo len → place, of those taken
	hot   []uint32 // free, with pages: a stack, the one released last on top
	cold  []uint32 // free, without pages
	pages []bool   // by place: may have pages, and is counted
	spare int      // fewest hot ones since trim looked last
}

func newChunks(n int) chunks {
	c := chunks{order: make([]uint32, n), pages: make([]bool, n)}
	for i := range n {
		c.cold = append(c.cold, uint32(n-1-i))
	}
	return c
}

// free counts chunks not in use.
func (c *chunks) free() int { return len(c.hot) + len(c.cold) }

// at is the place of chunk number n, which is taken.
func (c *chunks) at(n uint64) uint32 { return c.order[n%uint64(len(c.order))] }

// take makes a free chunk chunk number n.
func (c *chunks) take(n uint64, mem *Memory, size int64) (uint32, placement) {
	stack := &c.hot
	if len(*stack) == 0 {
		stack = &c.cold
	}
	last := len(*stack) - 1
	if last < 0 {
		return 0, noSpace
	}
	id := (*stack)[last]
	if !c.warm(id, mem, size) {
		return 0, noMemory
	}
	*stack = (*stack)[:last]
	c.spare = min(c.spare, len(c.hot))
	c.order[n%uint64(len(c.order))] = id
	return id, placed
}

// warm counts a chunk's pages before they are touched, or reports that there is no memory for them.
func (c *chunks) warm(id uint32, mem *Memory, size int64) bool {
	if !c.pages[id] {
		c.pages[id] = mem.take(size)
	}
	return c.pages[id]
}

// release frees chunk number n.
func (c *chunks) release(n uint64) {
	id := c.at(n)
	if c.pages[id] {
		c.hot = append(c.hot, id)
	} else {
		c.cold = append(c.cold, id)
	}
}

// count is how many chunks may have pages.
func (c *chunks) count() (n int64) {
	for _, p := range c.pages {
		if p {
			n++
		}
	}
	return n
}
