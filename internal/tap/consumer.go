package tap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rephub/rephub/journal"
)

// maxRunEntries bounds a run besides its bytes.
const maxRunEntries = 16 << 10

// Consumer takes entries out of a ring, one goroutine at a time; State, Mark, Passed and Wake may be called by any.
type Consumer struct {
	ring  *Ring
	event *os.File // the ring's eventfd again, such that a read can be waited for and ended
	owner uint64
	next  uint64 // position behind the last run given out
	tail  uint64 // position behind the last run released
	seq   journal.Seq
	epoch journal.Epoch
	seen  uint64 // stateVersion when Wait last looked
	err   error
}

// NewConsumer starts where the last consumer released, and replaces it. The ring is the Consumer's from here on, also on error.
func NewConsumer(r *Ring) (*Consumer, error) {
	c := &Consumer{ring: r, owner: r.head.owner.Add(1)}
	c.tail = r.head.tail.Load()
	c.next = c.tail
	if err := r.checkPositions(c.tail, r.head.head.Load()); err != nil {
		r.Close()
		return nil, fmt.Errorf("open ring: %w", err)
	}
	fd, err := unix.FcntlInt(uintptr(r.event), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("open ring: eventfd: %w", err)
	}
	c.event = os.NewFile(uintptr(fd), "ring eventfd")
	return c, nil
}

// Run is a row of whole entries in order, in place in the ring, all of one epoch. Regions are valid until Release, and may be
// written to by their holder (payload checksums).
type Run struct {
	Regions     [2][]byte // encoded entries as in the journal; the second is empty unless the run goes on in another chunk
	First, Last journal.Seq
	Count       int
	Epoch       journal.Epoch
	end         uint64
}

// Bytes is the length of the regions.
func (r Run) Bytes() int { return len(r.Regions[0]) + len(r.Regions[1]) }

// Next returns the next run of at most max bytes but at least one entry, and false when there is none. It may be called again
// before Release. An error wraps ErrCorrupt or ErrReplaced and stays.
func (c *Consumer) Next(max int) (Run, bool, error) {
	if c.err != nil {
		return Run{}, false, c.err
	}
	if c.ring.head.owner.Load() != c.owner {
		c.err = ErrReplaced
		return Run{}, false, c.err
	}
	run, err := c.walk(max)
	if err != nil {
		c.err = err
		return Run{}, false, err
	}
	return run, run.Count > 0, nil
}

// walk collects committed entries from c.next on. Nothing it reads is believed: the other side may be broken.
func (c *Consumer) walk(max int) (Run, error) {
	chunk, head := c.ring.chunk, c.ring.head.head.Load()
	if err := c.ring.checkPositions(c.tail, head); err != nil {
		return Run{}, err
	}
	var run Run
	region, start := 0, uint64(0)
	for pos := c.next; pos < head && run.Count < maxRunEntries; {
		off, ok := c.ring.place(pos)
		if !ok {
			return Run{}, fmt.Errorf("%w: no chunk at %d", ErrCorrupt, pos)
		}
		w := atomic.LoadUint32(word(c.ring.data, off))
		if w == 0 {
			break
		}
		if w == padMagic {
			if pos += chunk - pos%chunk; pos >= head {
				return Run{}, fmt.Errorf("%w: skip to %d reaches beyond %d", ErrCorrupt, pos, head)
			}
			if run.Count == 0 {
				c.next = pos // what comes is waited for there: a skip to an unfinished entry is nothing new
			}
			continue
		}
		h, err := c.entry(pos, off, head)
		if err != nil {
			return Run{}, err
		}
		size := uint64(h.Size())
		if run.Count > 0 && (run.Bytes()+int(size) > max || pos%chunk == 0 && region == len(run.Regions)-1) {
			break
		}
		switch {
		case run.Count == 0:
			run.First, start = h.Seq, off
		case pos%chunk == 0:
			region, start = region+1, off
		}
		run.Last, run.Count = h.Seq, run.Count+1
		run.Regions[region] = c.ring.data[start : off+size]
		c.seq = h.Seq
		pos += size
		run.end = pos
	}
	if run.Count > 0 {
		run.Epoch = c.epoch
		c.next = run.end
	}
	return run, nil
}

// entry decodes and checks the entry at pos, which is off in the data and whose first word is not 0. Its time may lie before that of the entry ahead: the
// journal, whose clock goes on without the ring, raises the times of a run in place, and may be killed before it has come to the next one.
func (c *Consumer) entry(pos, off, head uint64) (journal.Header, error) {
	room := min(c.ring.chunk-pos%c.ring.chunk, head-pos)
	if room < journal.EntryHeaderSize {
		return journal.Header{}, fmt.Errorf("%w: %d bytes left for an entry at %d", ErrCorrupt, room, pos)
	}
	h, err := journal.DecodeHeader(c.ring.data[off : off+journal.EntryHeaderSize])
	if err != nil {
		return h, fmt.Errorf("%w: entry at %d: %w", ErrCorrupt, pos, err)
	}
	epoch := journal.Epoch(c.ring.head.epoch.Load()) // of everything in the ring: it changes only while the ring is empty
	switch {
	case !h.Op.Data():
		err = fmt.Errorf("%s is not from a tap", h.Op)
	case uint64(h.Size()) > room:
		err = fmt.Errorf("it has %d bytes and %d are left", h.Size(), room)
	case epoch < c.epoch:
		err = fmt.Errorf("epoch %d after %d", epoch, c.epoch)
	case epoch == c.epoch && c.seq != 0 && h.Seq != c.seq+1, h.Seq <= c.seq:
		err = fmt.Errorf("seq %d after %d", h.Seq, c.seq)
	}
	if err != nil {
		return h, fmt.Errorf("%w: entry at %d: %w", ErrCorrupt, pos, err)
	}
	c.epoch = epoch
	return h, nil
}

// Release gives a run's memory back to the ring. Runs are released in the order of Next.
func (c *Consumer) Release(r Run) error {
	if r.Count == 0 || r.end <= c.tail || r.end > c.next {
		return fmt.Errorf("release seq %d to %d: run is not next", r.First, r.Last)
	}
	h := c.ring.head
	if h.owner.Load() != c.owner || !h.tail.CompareAndSwap(c.tail, r.end) {
		c.err = ErrReplaced
		return c.err
	}
	h.consumed.Store(uint64(r.Last))
	c.tail = r.end
	if h.spaceWait.Load() != 0 && h.spaceWait.CompareAndSwap(1, 0) {
		futexWake(&h.spaceWait)
	}
	return nil
}

// ready reports whether Wait has something to return for.
func (c *Consumer) ready() bool {
	h := c.ring.head
	if v := h.stateVersion.Load() &^ 1; v != c.seen {
		c.seen = v
		return true
	}
	return c.err != nil || h.owner.Load() != c.owner ||
		c.next < h.head.Load() && c.committed()
}

// committed reports whether there is something, good or bad, at c.next, which is below head.
func (c *Consumer) committed() bool {
	off, ok := c.ring.place(c.next)
	return !ok || atomic.LoadUint32(word(c.ring.data, off)) != 0
}

// Wait returns when there may be something new: an entry, or a change of State other than Last, Used and the counters.
func (c *Consumer) Wait(ctx context.Context) error {
	h := c.ring.head
	defer h.sleeping.Store(0)
	if c.ready() {
		return context.Cause(ctx)
	}
	h.sleeping.Store(1)
	if c.ready() {
		return context.Cause(ctx)
	}
	c.event.SetReadDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { c.event.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	return c.readEvent(ctx)
}

// Pause waits d or until the ring is half full, whichever comes first. Meanwhile the producer spends nothing on waking anybody.
func (c *Consumer) Pause(ctx context.Context, d time.Duration) error {
	c.event.SetReadDeadline(time.Now().Add(d))
	return c.readEvent(ctx)
}

func (c *Consumer) readEvent(ctx context.Context) error {
	var p [8]byte
	_, err := c.event.Read(p[:])
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, io.EOF) {
		return fmt.Errorf("wait for ring: %w", err)
	}
	return nil
}

// Wake makes a Wait return. Unlike all else it may be called after Close.
func (c *Consumer) Wake() { c.event.Write(wakeUp) }

// Mark is a place in the ring: everything that has its seq when it is taken lies before it.
type Mark uint64

// Mark marks the present.
func (c *Consumer) Mark() Mark { return Mark(c.ring.head.head.Load()) }

// Passed reports whether everything before m has been released.
func (c *Consumer) Passed(m Mark) bool { return c.ring.head.tail.Load() >= uint64(m) }

// Ring is the ring consumed.
func (c *Consumer) Ring() *Ring { return c.ring }

// Close unmaps the ring and may be called once. Nobody may use the Consumer or a Run of it any more.
func (c *Consumer) Close() error { return errors.Join(c.event.Close(), c.ring.Close()) }
