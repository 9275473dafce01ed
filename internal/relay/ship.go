package relay

import (
	"context"
	"errors"
	"fmt"

	"github.com/rephub/rephub/journal"
)

// shipper sends the batches of the spool into one stream.
type shipper struct {
	s    *Sender
	st   *stream
	f    *journal.Follower
	at   journal.Serial // the last batch sent
	pack packer
	raw  []byte // of the stream, not sent yet; less than a piece
}

func (sh *shipper) close() {
	if sh.f != nil {
		sh.f.Close()
	}
}

func (sh *shipper) run(ctx context.Context) error {
	for {
		b, ok, err := sh.next()
		if err != nil {
			return err
		}
		if ok {
			if err := sh.write(ctx, &b); err != nil {
				return err
			}
			continue
		}
		if err := sh.flush(ctx); err != nil {
			return err
		}
		select {
		case <-sh.s.cfg.Wake:
		case <-sh.st.over:
			return sh.st.reason()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// next reads the batch after the last one sent. The follower's segment may have
// been dropped when all of it was confirmed: then it goes on in the next one.
func (sh *shipper) next() (journal.Shipment, bool, error) {
	b, ok, err := sh.f.Next()
	if !errors.Is(err, journal.ErrDropped) {
		return b, ok, err
	}
	sh.f.Close()
	if sh.f, err = sh.s.cfg.Log.Follow(sh.at); err != nil {
		return b, false, err
	}
	return sh.f.Next()
}

// write sends a batch, all but what does not fill a frame.
func (sh *shipper) write(ctx context.Context, b *journal.Shipment) error {
	if len(b.Entries) > maxBatch {
		return fmt.Errorf("batch %d has %d bytes, %d can be shipped", b.Serial, len(b.Entries), maxBatch)
	}
	sh.at = b.Serial
	sh.s.mu.Lock()
	sh.s.mu.status.Sent = b.Serial
	sh.s.mu.Unlock()
	var head [batchHeader]byte
	putBatch(&head, b)
	sh.raw = append(sh.raw, head[:]...)
	for p := b.Entries; len(p) > 0; {
		if len(sh.raw) == 0 && len(p) >= maxPiece {
			n, err := sh.send(ctx, p[:maxPiece])
			if err != nil {
				return err
			}
			p = p[n:]
			continue
		}
		n := min(maxPiece-len(sh.raw), len(p))
		sh.raw, p = append(sh.raw, p[:n]...), p[n:]
		if len(sh.raw) >= maxPiece {
			if err := sh.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (sh *shipper) flush(ctx context.Context) error {
	for p := sh.raw; len(p) > 0; {
		n, err := sh.send(ctx, p[:min(len(p), maxPiece)])
		if err != nil {
			return err
		}
		p = p[n:]
	}
	sh.raw = sh.raw[:0]
	return nil
}

// send makes a frame of as much of a piece as the window has, and lines it up.
func (sh *shipper) send(ctx context.Context, piece []byte) (int, error) {
	st := sh.st
	var buf []byte
	n := 0
	err := st.await(ctx, st.kick, func() bool {
		if st.credit == 0 || len(st.free) == 0 {
			return false
		}
		n = int(min(int64(len(piece)), st.credit))
		st.credit -= int64(n)
		buf, st.free = st.free[len(st.free)-1], st.free[:len(st.free)-1]
		return true
	})
	if err != nil {
		return 0, err
	}
	frame := sh.pack.pack(buf, piece[:n], st.no)
	return n, st.await(ctx, st.kick, func() bool {
		if st.out != nil {
			return false
		}
		st.out = frame
		st.c.mu.turns = append(st.c.mu.turns, st)
		st.c.poke()
		return true
	})
}
