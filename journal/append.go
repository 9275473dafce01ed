package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/rephub/rephub/internal/giveway"
	"github.com/rephub/rephub/journal/index"
)

// Batch is what Append takes: entries in order, encoded and committed.
type Batch struct {
	Kind  Kind
	Epoch Epoch
	First Seq // of the first entry; it must match it
	// Regions hold the entries one after the other; an entry never crosses
	// from one region into the next, and nothing lies between entries. Append
	// fills in the payload checksums, the padding, and times that would go
	// backwards, in place. The memory is the caller's again when it returns.
	Regions [][]byte
	// Serial of a batch that Follow read from another journal; it must be the
	// next one. The payload checksums are then compared, not filled in. 0 else.
	Serial Serial
}

// appender is the state of the one goroutine that appends.
type appender struct {
	hash   Hash // of the last batch
	sealer *sealer
	heads  []byte   // all entry headers of the batch, one after the other
	iov    [][]byte // batch header, then the regions
	head   [batchHeaderSize]byte
	recs   []byte // encoded entries of AppendControl and AppendSync
}

// draft is a batch on its way into the log.
type draft struct {
	batchHeader
	last     Seq // before the batch, then of the entry before
	time     int64
	timeline *Timeline // as it will be after the batch
	owned    bool      // timeline is a copy of ours
}

// Append puts a batch at the end of the log. When it returns nil, readers see
// it, and the bytes are in the operating system: they survive a kill of this
// process, and a power loss after the next Sync. It never waits for a Sync.
//
// After an error nothing of the batch is in the log. ErrSyncFailed sticks until
// Recover; after any other error the same or another batch may be appended.
func (l *Log) Append(b Batch) error {
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	return l.append(b)
}

// append needs appendMu.
func (l *Log) append(b Batch) error {
	d, synced, err := l.begin(b)
	if err != nil {
		return err
	}
	a := &l.appender
	a.heads = a.heads[:0]
	for _, region := range b.Regions {
		if err := a.take(&d, region, b.Serial != 0); err != nil {
			return err
		}
	}
	giveway.Yield()
	if err := l.finishDraft(&d, b); err != nil {
		return err
	}
	w, at, err := l.room(&d)
	if err != nil {
		return err
	}
	d.prev, d.synced, d.at, d.group = a.hash, synced, Pos{w.number, at}, l.group
	d.encode(a.head[:])
	crc, hash := a.sealer.seal(a.heads, a.head[:])
	binary.LittleEndian.PutUint32(a.head[36:], crc)
	a.iov = append(append(a.iov[:0], a.head[:]), b.Regions...)
	giveway.Yield()
	if _, err := w.file.Writev(a.iov, at); err != nil {
		// What was written of it ends the log with a torn batch, which the
		// next one overwrites: cutting it off now is only tidy.
		w.file.Truncate(at)
		return fmt.Errorf("append to %s: %w", w.name, err)
	}
	a.hash = hash
	w.entries += int(d.count)
	if d.kind != KindControl && !l.opt.NoIndex {
		a.index(w, at+batchHeaderSize)
	}
	l.mu.Lock()
	l.st.tail = at + batchHeaderSize + d.body
	l.st.appended, l.st.time, l.st.timeline = d.last, d.time, d.timeline
	l.st.serial = max(l.st.serial, d.serial)
	l.mu.Unlock()
	return nil
}

// begin checks what needs no look at the entries.
func (l *Log) begin(b Batch) (draft, Pos, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.st
	d := draft{last: s.appended, time: s.time, timeline: s.timeline}
	d.kind, d.epoch, d.first, d.serial = b.Kind, b.Epoch, b.First, b.Serial
	if l.opt.Number && d.serial == 0 {
		d.serial = s.serial + 1
	}
	if err := s.usable(); err != nil {
		return d, Pos{}, err
	}
	if d.serial != 0 && d.serial != s.serial+1 {
		return d, Pos{}, fmt.Errorf("%w: batch is number %d, the journal has %d", ErrGap, d.serial, s.serial)
	}
	switch b.Kind {
	case KindWrites:
		if b.First != s.appended+1 {
			return d, Pos{}, fmt.Errorf("%w: batch begins at %d, the journal ends at %d", ErrGap, b.First, s.appended)
		}
	case KindSync:
		if newest, ok := s.timeline.Newest(); ok && newest >= s.appended {
			return d, Pos{}, fmt.Errorf("%w: seq %d", ErrWouldRewrite, newest)
		}
	case KindControl:
	default:
		return d, Pos{}, fmt.Errorf("%w: batch of %s", ErrInvalid, b.Kind)
	}
	return d, s.synced, nil
}

// take checks the entries of a region, completes their headers (of sealed ones
// nothing may change) and collects them in a.heads.
func (a *appender) take(d *draft, region []byte, sealed bool) error {
	for len(region) > 0 {
		if len(region) < EntryHeaderSize {
			return fmt.Errorf("%w: %d bytes after the last entry", ErrInvalid, len(region))
		}
		h, err := DecodeHeader(region)
		if err != nil {
			return err
		}
		size := h.Size()
		if size > len(region) {
			return fmt.Errorf("%w: entry %d of %d bytes is cut off", ErrInvalid, h.Seq, size)
		}
		payload := region[EntryHeaderSize : EntryHeaderSize+int(h.PayloadLen)]
		if err := d.next(&h, payload); err != nil {
			return err
		}
		le := binary.LittleEndian
		crc := crc32.Checksum(payload, castagnoli)
		if sealed && (crc != h.CRC || d.time != h.Time) {
			return fmt.Errorf("%w: entry %d is not as it was when it was sealed", ErrInvalid, h.Seq)
		}
		le.PutUint32(region[offCRC:], crc)
		le.PutUint64(region[offTime:], uint64(d.time))
		clear(region[EntryHeaderSize+len(payload) : size])
		a.heads = append(a.heads, region[:EntryHeaderSize]...)
		d.body += int64(size)
		region = region[size:]
	}
	return nil
}

// next holds one entry to the rules of its batch, and applies control records.
func (d *draft) next(h *Header, payload []byte) error {
	want := d.last
	if d.kind == KindWrites {
		want++
	}
	if h.Seq != want && (h.Op != OpAttach || h.Seq < want) || h.Op == OpAttach && h.Seq == want {
		return fmt.Errorf("%w: %s has seq %d after %d", ErrGap, h.Op, h.Seq, d.last)
	}
	if (d.kind == KindControl) != h.Op.Control() {
		return fmt.Errorf("%w: %s in a batch of %s", ErrInvalid, h.Op, d.kind)
	}
	if d.kind == KindControl {
		c, err := DecodeControl(h.Op, payload)
		if err != nil {
			return err
		}
		if !d.owned {
			t := *d.timeline
			d.timeline, d.owned = &t, true
		}
		if err := d.timeline.Apply(c, h.Seq); err != nil {
			return err
		}
	}
	d.last = h.Seq
	d.time = max(d.time, h.Time)
	if d.count++; d.count == 1 {
		d.firstTime = d.time
	}
	return nil
}

func (l *Log) finishDraft(d *draft, b Batch) error {
	switch {
	case d.count == 0:
		return fmt.Errorf("%w: batch without entries", ErrInvalid)
	case d.count > uint32(l.opt.SegmentEntries) || d.body > maxBatchBody:
		return fmt.Errorf("%w: batch of %d entries and %d bytes", ErrInvalid, d.count, d.body)
	case d.timeline.Epoch != d.epoch:
		return fmt.Errorf("%w: batch of epoch %d, the journal is in %d", ErrFenced, d.epoch, d.timeline.Epoch)
	}
	first, _ := DecodeHeader(l.appender.heads)
	if b.First != first.Seq {
		return fmt.Errorf("%w: batch said to begin at %d begins at %d", ErrGap, b.First, first.Seq)
	}
	d.batchHeader.last, d.lastTime = d.last, d.time
	return nil
}

// index enters the batch's entries, of which the first begins at byte at.
func (a *appender) index(w *writer, at int64) {
	for heads := a.heads; len(heads) > 0; heads = heads[EntryHeaderSize:] {
		le := binary.LittleEndian
		payload := int(le.Uint32(heads[offPayloadLen:]))
		w.mem.Add(index.Extent{
			Volume:  le.Uint32(heads[offVolume:]),
			Off:     int64(le.Uint64(heads[offOff:])),
			Len:     int64(le.Uint32(heads[offLen:])),
			Seq:     le.Uint64(heads[offSeq:]),
			Zero:    Op(heads[offOp]) != OpWrite,
			Segment: w.number,
			Pos:     at + EntryHeaderSize,
		})
		at += int64(EntrySize(payload))
	}
}
