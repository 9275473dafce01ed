package journal

import (
	"fmt"
)

// chain is what one batch hands on to the next: the rules that span batches.
type chain struct {
	hash   Hash
	last   Seq
	time   int64 // ns since 1970
	tl     Timeline
	serial Serial // of the last numbered batch
	synced Pos    // the highest place that a header seen so far called durable
}

// chainAt is the chain at the start of a segment.
func chainAt(h *segmentHeader) chain {
	return chain{hash: h.prev, last: h.firstSeq - 1, time: h.firstTime, tl: h.timeline, serial: h.serial, synced: h.synced}
}

// follow moves the chain over a batch. body reads a control record's body. The
// chain is unchanged after an error.
func (c *chain) follow(b *batch, body func(placed) ([]byte, error)) error {
	if b.prev != c.hash {
		return fmt.Errorf("hash of the batch before is %x, %x expected", b.prev, c.hash)
	}
	next := *c
	for i := range b.entries {
		if err := next.entry(b, &b.entries[i], body); err != nil {
			return err
		}
	}
	first, last := b.entries[0], b.entries[len(b.entries)-1]
	if b.first != first.Seq || b.last != last.Seq || b.firstTime != first.Time || b.lastTime != last.Time {
		return fmt.Errorf("batch header (seq %d to %d) does not match its entries", b.first, b.last)
	}
	if b.epoch != next.tl.Epoch {
		return fmt.Errorf("batch of epoch %d in epoch %d", b.epoch, next.tl.Epoch)
	}
	if b.serial != 0 {
		if b.serial != next.serial+1 {
			return fmt.Errorf("%w: batch is number %d after %d", ErrGap, b.serial, next.serial)
		}
		next.serial = b.serial
	}
	next.hash = b.hash
	if next.synced.Before(b.synced) {
		next.synced = b.synced
	}
	*c = next
	return nil
}

func (c *chain) entry(b *batch, e *placed, body func(placed) ([]byte, error)) error {
	if e.Time < c.time {
		return fmt.Errorf("time of seq %d goes back by %d ns", e.Seq, c.time-e.Time)
	}
	c.time = e.Time
	want := c.last
	if b.kind == KindWrites {
		want++
	}
	if e.Op != OpAttach && e.Seq != want || e.Op == OpAttach && e.Seq <= c.last {
		return fmt.Errorf("%w: %s has seq %d after %d", ErrGap, e.Op, e.Seq, c.last)
	}
	c.last = e.Seq
	if (b.kind == KindControl) != e.Op.Control() {
		return fmt.Errorf("%s in a batch of %s", e.Op, b.kind)
	}
	if b.kind != KindControl {
		return nil
	}
	p, err := body(*e)
	if err != nil {
		return err
	}
	r, err := DecodeControl(e.Op, p)
	if err != nil {
		return err
	}
	return c.tl.Apply(r, e.Seq)
}
