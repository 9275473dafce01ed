package journal

import (
	"errors"
	"slices"
	"strings"
	"time"
)

// Mark is the newest seq of a stretch of time that ends at At, included.
type Mark struct {
	At  time.Time
	Seq Seq
}

const (
	autoPrefix = "auto-"
	autoLayout = "20060102T150405Z"
)

// AutoName is the name of the automatic checkpoint at a time, in whole seconds.
func AutoName(at time.Time) string { return autoPrefix + at.UTC().Format(autoLayout) }

// ParseAutoName is the time in a name that AutoName has made.
func ParseAutoName(name string) (time.Time, bool) {
	text, ok := strings.CutPrefix(name, autoPrefix)
	if !ok {
		return time.Time{}, false
	}
	at, err := time.Parse(autoLayout, text)
	return at, err == nil
}

// Marks visits the newest seq of every stretch of time in which something was
// logged, newest first, from the one that ends at before or earlier on. Stretches
// begin and end at multiples of every since 1970. It ends when visit returns false,
// or where the journal begins by now.
//
// It reads the batch headers of one segment after the other, and holds one Mark for
// each stretch of one segment.
func (l *Log) Marks(every time.Duration, before time.Time, visit func(Mark) bool) error {
	last := before.UnixNano() + 1
	for _, seg := range slices.Backward(l.segments(0)) {
		marks, err := l.marksOf(seg, every.Nanoseconds())
		if errors.Is(err, ErrDropped) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, m := range slices.Backward(marks) {
			if m.at >= last { // too new, or goes on in the segment after
				continue
			}
			last = m.at
			if !visit(Mark{At: time.Unix(0, m.at).UTC(), Seq: m.seq}) {
				return nil
			}
		}
	}
	return nil
}

// mark is a Mark in ns since 1970.
type mark struct {
	at  int64
	seq Seq
}

// endOf is the end of the stretch that a time is in.
func endOf(t, every int64) int64 { return (t + every - 1) / every * every }

// marksOf are a segment's, oldest first.
func (l *Log) marksOf(seg segment, every int64) (marks []mark, err error) {
	br, release, err := l.batches(seg)
	if err != nil {
		return nil, err
	}
	defer release()
	note := func(t int64, seq Seq) {
		at := endOf(t, every)
		if n := len(marks); n > 0 && marks[n-1].at >= at {
			marks[n-1].seq = max(marks[n-1].seq, seq)
			return
		}
		marks = append(marks, mark{at, seq})
	}
	var buf [batchHeaderSize]byte
	for off := int64(seg.head); off < seg.length; {
		if _, err := br.f.ReadAt(buf[:], off); err != nil {
			return nil, br.fail(err)
		}
		var b batchHeader
		if err := b.decode(buf[:]); err != nil {
			return nil, br.flaw(off, batchHeaderSize, "%v", err)
		}
		if endOf(b.firstTime, every) == endOf(b.lastTime, every) {
			note(b.lastTime, b.last)
		} else {
			whole, err := br.read(off, false)
			if err != nil {
				return nil, err
			}
			for _, e := range whole.entries {
				note(e.Time, e.Seq)
			}
		}
		off += batchHeaderSize + b.body
	}
	return marks, nil
}
