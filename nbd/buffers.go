package nbd

import (
	"io"
	"sync"
	"sync/atomic"
)

const (
	smallBuffer = 8 << 10   // what an idle connection keeps for each direction, bytes
	bigBuffer   = 256 << 10 // what a busy one borrows from the pool
	flushAt     = 64 << 10  // replies are sent when this many bytes wait, though more requests are at hand
)

// budget bounds the bytes that all connections of a server buffer beyond their small buffers.
type budget struct {
	limit int64
	used  atomic.Int64
	pool  sync.Pool // *[]byte of bigBuffer bytes
}

func newBudget(limit int64) *budget {
	b := &budget{limit: limit}
	b.pool.New = func() any { p := make([]byte, bigBuffer); return &p }
	return b
}

// take reserves n bytes, or reports that there is no room. It never waits.
func (b *budget) take(n int) bool {
	if b.used.Add(int64(n)) > b.limit {
		b.used.Add(-int64(n))
		return false
	}
	return true
}

func (b *budget) give(n int) { b.used.Add(-int64(n)) }

// getBig borrows a big buffer, nil when the budget is used up.
func (b *budget) getBig() *[]byte {
	if !b.take(bigBuffer) {
		return nil
	}
	return b.pool.Get().(*[]byte)
}

func (b *budget) putBig(p *[]byte) {
	b.pool.Put(p)
	b.give(bigBuffer)
}

// buffer is memory that is small while idle and borrows a big one from the budget when busy.
type buffer struct {
	small []byte
	big   *[]byte
}

func newBuffer() buffer { return buffer{small: make([]byte, smallBuffer)} }

// bytes is the whole of the memory in use.
func (b *buffer) bytes() []byte {
	if b.big != nil {
		return *b.big
	}
	return b.small
}

// grow borrows a big buffer and reports whether there is one now. The content is not carried over.
func (b *buffer) grow(from *budget) bool {
	if b.big == nil {
		b.big = from.getBig()
	}
	return b.big != nil
}

// growAnyway is grow for what cannot go on without, beyond the budget if need be.
func (b *buffer) growAnyway(from *budget) {
	if !b.grow(from) {
		from.used.Add(bigBuffer)
		b.big = from.pool.Get().(*[]byte)
	}
}

// shrink gives the big buffer back; nothing of it may be in use.
func (b *buffer) shrink(to *budget) {
	if b.big != nil {
		to.putBig(b.big)
		b.big = nil
	}
}

// input holds bytes received and not yet consumed: mem.bytes()[r:w].
type input struct {
	mem  buffer
	r, w int
}

func newInput() *input { return &input{mem: newBuffer()} }

func (in *input) buffered() int { return in.w - in.r }

// next returns the n oldest bytes and consumes them; they must be buffered, and are valid until the next fill.
func (in *input) next(n int) []byte {
	p := in.mem.bytes()[in.r : in.r+n]
	in.r += n
	return p
}

// makeRoom sees to it that n bytes can be buffered in one piece, in a bigger buffer if there is one.
func (in *input) makeRoom(n int, from *budget) bool {
	size := len(in.mem.bytes())
	if n > bigBuffer || n > size && !in.grow(from) {
		return false
	}
	if buf := in.mem.bytes(); in.r+n > len(buf) {
		in.w = copy(buf, buf[in.r:in.w])
		in.r = 0
	}
	return true
}

// grow moves the content to a big buffer.
func (in *input) grow(from *budget) bool {
	if in.mem.big != nil {
		return true
	}
	old := in.mem.bytes()[in.r:in.w]
	if !in.mem.grow(from) {
		return false
	}
	in.w = copy(in.mem.bytes(), old)
	in.r = 0
	return true
}

// growAnyway is grow beyond the budget.
func (in *input) growAnyway(from *budget) {
	if in.mem.big != nil {
		return
	}
	old := in.mem.bytes()[in.r:in.w]
	in.mem.growAnyway(from)
	in.w = copy(in.mem.bytes(), old)
	in.r = 0
}

// fill reads once from r into the free space behind the content, of which there must be some.
func (in *input) fill(r io.Reader) (int, error) {
	if in.r == in.w {
		in.r, in.w = 0, 0
	}
	n, err := r.Read(in.mem.bytes()[in.w:])
	in.w += n
	return n, err
}

// release gives borrowed memory back and drops the content.
func (in *input) release(to *budget) {
	in.r, in.w = 0, 0
	in.mem.shrink(to)
}
