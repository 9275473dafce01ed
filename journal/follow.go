package journal

import (
	"fmt"
	"sort"
)

// Shipment is a batch on its way into another journal: the same entries, byte
// for byte, under a header of that journal's own.
type Shipment struct {
	Serial      Serial
	Kind        Kind
	Epoch       Epoch
	First, Last Seq
	Time        int64  // of the last entry, ns since 1970
	Entries     []byte // valid until the follower's next call
}

// Batch is the shipment as Append takes it. Append changes nothing in Entries.
func (s *Shipment) Batch() Batch {
	return Batch{Kind: s.Kind, Epoch: s.Epoch, First: s.First, Regions: [][]byte{s.Entries}, Serial: s.Serial}
}

// Follower reads the batches of a numbered journal in their order, while it is
// appended to. It is used by one goroutine; close it before the Log.
type Follower struct {
	l       *Log
	next    Serial // of the batch to read
	br      *batchReader
	release func()
	at      int64 // byte of the segment where the next batch is, or will be
}

// Serial is the number of the last batch appended; it may not be durable.
func (l *Log) Serial() Serial {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.st.serial
}

// DurableSerial is the number of the last batch that survives a power loss.
func (l *Log) DurableSerial() Serial {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.st.durableNo
}

// Follow reads what comes after the batch with that number. ErrDropped when some
// of it is gone, ErrGap when the journal does not have the batch yet.
func (l *Log) Follow(after Serial) (*Follower, error) {
	l.mu.Lock()
	s := &l.st
	first, last := s.segs[0].serial, s.serial
	i := sort.Search(len(s.segs), func(i int) bool { return s.segs[i].serial > after }) - 1
	var seg segment
	if i >= 0 {
		seg = s.segs[i]
		if i == len(s.segs)-1 {
			seg.length = s.tail
		}
	}
	l.mu.Unlock()
	switch {
	case !l.opt.Number:
		return nil, fmt.Errorf("%w: its batches have no numbers", ErrInvalid)
	case after > last:
		return nil, fmt.Errorf("%w: follow after batch %d, the journal has %d", ErrGap, after, last)
	case i < 0:
		return nil, fmt.Errorf("follow after batch %d: the journal begins after %d: %w", after, first, ErrDropped)
	}
	f := &Follower{l: l, next: after + 1}
	if err := f.enter(seg); err != nil {
		return nil, err
	}
	if err := f.find(seg, after); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// enter begins to read a segment.
func (f *Follower) enter(seg segment) error {
	br, release, err := f.l.batches(seg)
	if err != nil {
		return err
	}
	f.Close()
	f.br, f.release, f.at = br, release, int64(seg.head)
	return nil
}

// find goes behind the batch with a number, of which the segment holds the next.
func (f *Follower) find(seg segment, after Serial) error {
	var buf [batchHeaderSize]byte
	for no := seg.serial; no < after; {
		if _, err := f.br.f.ReadAt(buf[:], f.at); err != nil {
			return f.br.fail(err)
		}
		var b batchHeader
		if err := b.decode(buf[:]); err != nil {
			return f.br.flaw(f.at, batchHeaderSize, "%v", err)
		}
		no = b.serial
		f.at += batchHeaderSize + b.body
	}
	return nil
}

// Next is the next batch, or false when there is none yet. It reads what is in
// the operating system; it may not be durable yet. A *CorruptError says that the
// batch cannot be read any more.
func (f *Follower) Next() (Shipment, bool, error) {
	for {
		end, following, err := f.extent()
		if err != nil {
			return Shipment{}, false, err
		}
		if f.at < end {
			f.br.size = end
			return f.read()
		}
		if following == nil {
			return Shipment{}, false, nil
		}
		if err := f.enter(*following); err != nil {
			return Shipment{}, false, err
		}
	}
}

// extent is how long the follower's segment is now, and the one after it.
func (f *Follower) extent() (end int64, following *segment, err error) {
	l := f.l
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.st
	i := int(f.br.segment) - int(s.segs[0].number)
	switch {
	case s.closed:
		return 0, nil, ErrClosed
	case i < 0:
		return 0, nil, fmt.Errorf("follow: segment %d: %w", f.br.segment, ErrDropped)
	case i == len(s.segs)-1:
		return s.tail, nil, nil
	}
	next := s.segs[i+1]
	return s.segs[i].length, &next, nil
}

func (f *Follower) read() (Shipment, bool, error) {
	b, err := f.br.read(f.at, false)
	if err != nil {
		return Shipment{}, false, err
	}
	if b.serial != f.next {
		return Shipment{}, false, f.br.flaw(f.at, b.size, "batch is number %d, %d expected", b.serial, f.next)
	}
	p, err := f.br.bytes(f.at+batchHeaderSize, int(b.body))
	if err != nil {
		return Shipment{}, false, f.br.fail(err)
	}
	f.next++
	f.at += b.size
	return Shipment{Serial: b.serial, Kind: b.kind, Epoch: b.epoch, First: b.first, Last: b.batchHeader.last, Time: b.lastTime, Entries: p}, true, nil
}

// Close lets go of the segment being read.
func (f *Follower) Close() {
	if f.release != nil {
		f.release()
		f.release = nil
	}
}

// DropShipped removes the segments that hold no batch above the number, oldest
// first; never the active one. No point and no base is meant: the journal that
// follows has them.
func (l *Log) DropShipped(through Serial) error {
	l.dropMu.Lock()
	defer l.dropMu.Unlock()
	return l.dropWhile(func(next segment) bool { return next.serial <= through })
}
