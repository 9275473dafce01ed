package tap

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rephub/rephub/journal"
)

// maxPiece is the longest payload of one entry, in bytes: a longer write becomes several, so that readers need little memory.
const maxPiece = 1 << 20

// maxSpan is the longest range of one entry without payload, in bytes; a whole number of the largest index units below 4 GiB.
const maxSpan = 3 << 30

// ProducerConfig tunes a Producer. Zero fields are the defaults named here.
type ProducerConfig struct {
	// Memory is what the ring takes its pages from; default: no limit.
	Memory *Memory
	// VoidAfter is how long writes may wait for space, in all; 2 % of the time that passes is paid back. Default 20 ms.
	VoidAfter time.Duration
	// Now is the wall clock; default time.Now.
	Now func() time.Time
}

// EnsureDefaults fills zero fields.
func (c *ProducerConfig) EnsureDefaults() {
	if c.Memory == nil {
		c.Memory = NewMemory(1 << 62)
	}
	if c.VoidAfter == 0 {
		c.VoidAfter = 20 * time.Millisecond
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

// Producer puts writes into a ring. There is one per ring; its methods may be called concurrently.
type Producer struct {
	ring  *Ring // changed by Renew, under mu
	cfg   ProducerConfig
	piece int // longest payload of one entry in this ring, bytes

	// mu is held for reservations, at most VoidAfter when the ring is full, and never while payload is copied.
	mu struct {
		sync.Mutex
		head, tail uint64 // positions; tail as last seen and found sane
		last       journal.Seq
		epoch      journal.Epoch // newest one used, in this or an earlier ring
		time       int64         // of the newest entry, ns since 1970
		void       bool
		patience   time.Duration // how long may still be waited
		paidAt     time.Time     // when patience was last paid back
		chunks     chunks
		trimmed    uint64 // head when Trim looked last
	}
}

// NewProducer makes r's producer. Of a ring's whole life there is only one.
func NewProducer(r *Ring, cfg ProducerConfig) (*Producer, error) {
	if r.head.head.Load() != 0 {
		return nil, errors.New("make producer: the ring already had one")
	}
	if cfg.VoidAfter < 0 {
		return nil, errors.New("make producer: negative VoidAfter")
	}
	cfg.EnsureDefaults()
	p := &Producer{ring: r, cfg: cfg}
	p.piece = min(maxPiece, int(r.chunk/4))
	p.mu.chunks = newChunks(len(r.order))
	p.mu.void = true
	return p, nil
}

// Write records a write of data at off, in order after every call that has returned, or counts it while void. It returns in
// bounded time and cannot fail. data is the caller's again on return.
func (p *Producer) Write(vol journal.VolumeID, off int64, data []byte) {
	for len(data) > 0 {
		n := len(data)
		if n > p.piece {
			n = p.piece - int(off%4096) // later pieces begin at a block
		}
		p.append(journal.Header{Op: journal.OpWrite, Volume: vol, Off: off, Len: uint32(n), PayloadLen: uint32(n)}, data[:n])
		data, off = data[n:], off+int64(n)
	}
}

// Clear records that n bytes at off were zeroed (journal.OpZero) or trimmed (journal.OpTrim), like Write.
func (p *Producer) Clear(op journal.Op, vol journal.VolumeID, off, n int64) {
	for n > 0 {
		k := n
		if k > 1<<32-1 {
			k = maxSpan
		}
		p.append(journal.Header{Op: op, Volume: vol, Off: off, Len: uint32(k)}, nil)
		n, off = n-k, off+k
	}
}

// append is the hot path.
func (p *Producer) append(h journal.Header, data []byte) {
	size := uint64(journal.EntrySize(len(data)))
	p.mu.Lock()
	at, ok := p.reserveLocked(size)
	if !ok {
		p.ring.head.voidWrites.Add(1)
		p.ring.head.voidBytes.Add(uint64(h.Len))
		p.mu.Unlock()
		return
	}
	p.mu.last++
	p.mu.time = max(p.mu.time, p.cfg.Now().UnixNano())
	h.Seq, h.Time = p.mu.last, p.mu.time
	ring := p.ring
	entry := ring.data[at : at+size]
	atomic.StoreUint32(word(entry, 0), 0)
	h.Encode(entry)
	p.ring.head.last.Store(uint64(p.mu.last))
	p.ring.head.head.Store(p.mu.head)
	p.mu.Unlock()

	n := copy(entry[journal.EntryHeaderSize:], data)
	clear(entry[journal.EntryHeaderSize+n:])
	journal.CommitEntry(entry)
	ring.wakeConsumer()
}

// Void stops recording, and returns the last seq recorded. While it is void already it only says so.
func (p *Producer) Void() journal.Seq {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.voidLocked(VoidAsked)
	return journal.Seq(p.ring.head.cut.Load())
}

func (p *Producer) voidLocked(why VoidReason) {
	if p.mu.void {
		return
	}
	p.mu.void = true
	p.changeState(func(h *header) {
		h.void.Store(1)
		h.reason.Store(uint32(why))
		h.cut.Store(uint64(p.mu.last))
		h.voids.Add(1)
	})
}

// Unvoid records again, in epoch, and gives the next write the seq first. Everything recorded before must have been released; epoch
// and first must be above any used.
func (p *Producer) Unvoid(epoch journal.Epoch, first journal.Seq) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch cur := p.mu.epoch; {
	case !p.mu.void:
		return fmt.Errorf("%w: it records in epoch %d", ErrNotVoid, cur)
	case epoch <= cur:
		return fmt.Errorf("%w: epoch %d after %d", ErrStale, epoch, cur)
	case first <= p.mu.last:
		return fmt.Errorf("%w: seq %d after %d", ErrStale, first, p.mu.last)
	}
	if !p.seeTailLocked() {
		return fmt.Errorf("%w: its consumer's position makes no sense", ErrCorrupt)
	}
	if p.mu.tail != p.mu.head {
		return fmt.Errorf("%w: %d bytes are not released", ErrBusy, p.mu.head-p.mu.tail)
	}
	p.mu.void = false
	p.mu.last, p.mu.epoch = first-1, epoch
	p.mu.patience, p.mu.paidAt = p.cfg.VoidAfter, time.Now()
	p.changeState(func(h *header) {
		h.void.Store(0)
		h.epoch.Store(uint64(epoch))
		h.last.Store(uint64(first - 1))
	})
	return nil
}

// changeState makes one consistent change of what State shows, and wakes the consumer. Callers hold mu.
func (p *Producer) changeState(change func(*header)) {
	h := p.ring.head
	h.stateVersion.Add(1)
	change(h)
	h.stateVersion.Add(1)
	p.ring.wakeConsumer()
}
