package journal

import (
	"context"
	"errors"
	"fmt"
)

// Damage is a payload that is not what was written.
type Damage struct {
	Segment uint32
	Pos     int64 // of the first byte in doubt, in the segment's file
	Len     int64 // bytes
	Err     *CorruptError
}

// maxDamages bounds what Verify gathers before it gives up.
const maxDamages = 1 << 12

// Verify reads everything that the log holds above from and up to to, and lists
// the payloads that differ from their checksums. Damaged headers are an error.
// It reads no payload outside of the range.
func (l *Log) Verify(ctx context.Context, from, to Seq) ([]Damage, error) {
	var found []Damage
	for _, seg := range l.segments(from) {
		// Sync data that has the seq to may follow in the next segment.
		if seg.firstSeq > to+1 {
			break
		}
		var err error
		if found, err = l.verifySegment(ctx, seg, from, to, found); err != nil {
			return found, fmt.Errorf("verify segment %d: %w", seg.number, err)
		}
	}
	return found, nil
}

func (l *Log) verifySegment(ctx context.Context, seg segment, from, to Seq, found []Damage) ([]Damage, error) {
	br, release, err := l.batches(seg)
	if err != nil {
		return found, err
	}
	defer release()
	var buf [batchHeaderSize]byte
	for at := int64(seg.head); at < seg.length; {
		if err := ctx.Err(); err != nil {
			return found, err
		}
		if _, err := br.f.ReadAt(buf[:], at); err != nil {
			return found, br.fail(err)
		}
		var h batchHeader
		if err := h.decode(buf[:]); err != nil {
			return found, br.flaw(at, batchHeaderSize, "%v", err).because(err)
		}
		if h.first > to {
			break
		}
		if h.last > from {
			b, err := br.read(at, true)
			if err != nil {
				return found, err
			}
			for i := range b.bad {
				e := b.bad[i]
				found = append(found, Damage{Segment: seg.number, Pos: e.Offset, Len: e.Len, Err: &e})
			}
			if len(found) > maxDamages {
				return found, errors.Join(errors.New("too much is damaged"), found[0].Err)
			}
		}
		at += batchHeaderSize + h.body
	}
	return found, nil
}
