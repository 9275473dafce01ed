package journal

import (
	"fmt"
)

// AppendControl appends control records as one batch. An Attach among them
// begins the given epoch, and its seq is the first of it; otherwise epoch is
// the current one (0 before the first Attach). As Append, it does not sync.
func (l *Log) AppendControl(epoch Epoch, recs ...Control) error {
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	return l.appendControl(epoch, recs)
}

// appendControl needs appendMu.
func (l *Log) appendControl(epoch Epoch, recs []Control) error {
	a := &l.appender
	a.recs = a.recs[:0]
	seq := l.Appended()
	now := l.now()
	b := Batch{Kind: KindControl, Epoch: epoch}
	for i, c := range recs {
		if r, ok := c.(Attach); ok {
			r.Epoch = epoch
			if r.Seq == 0 {
				r.Seq = seq + 1
			}
			seq, c = r.Seq, r
		}
		body, err := encodeControl(c)
		if err != nil {
			return err
		}
		h := Header{Op: c.Op(), Seq: seq, Time: now, PayloadLen: uint32(len(body))}
		a.put(h, body)
		if i == 0 {
			b.First = seq
		}
	}
	b.Regions = [][]byte{a.recs}
	return l.append(b)
}

// now is the time of a record. A journal that follows another one leaves the
// clock to that: shipped entries come with their time.
func (l *Log) now() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.st.serial != 0 && !l.opt.Number {
		return l.st.time
	}
	return l.opt.Now().UnixNano()
}

// put adds an encoded entry to a.recs.
func (a *appender) put(h Header, payload []byte) {
	at := len(a.recs)
	a.recs = append(a.recs, make([]byte, h.Size())...)
	h.Encode(a.recs[at:])
	CommitEntry(a.recs[at:])
	copy(a.recs[at+EntryHeaderSize:], payload)
}

// SyncWrite is a piece that a sync found to differ.
type SyncWrite struct {
	Volume VolumeID
	Off    int64  // bytes
	Len    int64  // bytes
	Data   []byte // Len bytes, or nil for zeroes
}

// maxZero is the longest zero record of a sync, in bytes.
const maxZero = 1 << 30

// AppendSync appends what a sync found in one range: n bytes of data at off, or
// n zeroes when data is nil. The record has the seq of the last one before it.
// ErrWouldRewrite when that seq is a point.
func (l *Log) AppendSync(epoch Epoch, vol VolumeID, off, n int64, data []byte) error {
	return l.AppendSyncs(epoch, []SyncWrite{{Volume: vol, Off: off, Len: n, Data: data}})
}

// AppendSyncs appends several pieces, in order, as one batch. The data is copied.
func (l *Log) AppendSyncs(epoch Epoch, writes []SyncWrite) error {
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	a := &l.appender
	a.recs = a.recs[:0]
	seq, now := l.Appended(), l.now()
	for _, w := range writes {
		if w.Len <= 0 || w.Data != nil && int64(len(w.Data)) != w.Len || int64(len(a.recs)) > maxBatchBody {
			return fmt.Errorf("%w: sync of %d bytes with %d bytes of data", ErrInvalid, w.Len, len(w.Data))
		}
		for w.Len > 0 {
			h := Header{Op: OpZero, Volume: w.Volume, Seq: seq, Off: w.Off, Len: uint32(min(w.Len, maxZero)), Time: now}
			var payload []byte
			if w.Data != nil {
				h.Len = uint32(min(w.Len, MaxPayload))
				h.Op, h.PayloadLen = OpWrite, h.Len
				payload, w.Data = w.Data[:h.Len], w.Data[h.Len:]
			}
			a.put(h, payload)
			w.Off += int64(h.Len)
			w.Len -= int64(h.Len)
		}
	}
	if cap(a.recs) > 4<<20 {
		defer func() { a.recs = nil }()
	}
	return l.append(Batch{Kind: KindSync, Epoch: epoch, First: seq, Regions: [][]byte{a.recs}})
}
