package relay

import (
	"context"
	"errors"
	"fmt"

	"github.com/rephub/rephub/internal/giveway"
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
		giveway.Yield()
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
	if len(sh.raw) >= maxPiece {
		if err := sh.flush(ctx); err != nil {
			return err
		}
	}
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

func (sh *shipper) send(ctx context.Context, piece []byte) (int, error) {
	n, err := sh.st.send(ctx.Done(), &sh.pack, piece)
	if errors.Is(err, errGivenUp) {
		err = ctx.Err()
	}
	return n, err
}
