package journal

import (
	"fmt"
	"strings"
	"time"
)

// Point is how people name a recovery point. The zero value is the latest.
type Point struct {
	Kind PointKind
	Seq  Seq           // PointSeq
	Time time.Time     // PointTime
	Ago  time.Duration // PointAgo, not negative
	Name string        // PointCheckpoint
}

// PointKind is one of the ways to say which point is meant.
type PointKind uint8

// The kinds of Point.
const (
	PointLatest     PointKind = iota // latest
	PointSeq                         // seq:N
	PointTime                        // an RFC 3339 time
	PointAgo                         // -30s
	PointCheckpoint                  // checkpoint:NAME
)

// PointError is a text that names no point.
type PointError struct{ Text, hint string }

func (e *PointError) Error() string { return fmt.Sprintf("bad POINT %q", e.Text) }

// Hint says how it is written.
func (e *PointError) Hint() string { return e.hint }

// ParsePoint reads latest, seq:N, an RFC 3339 time, -30s or checkpoint:NAME;
// the empty string is latest. Errors are *PointError.
func ParsePoint(text string) (Point, error) {
	bad := func(hint string) (Point, error) { return Point{}, &PointError{text, hint} }
	if text == "" || text == "latest" {
		return Point{}, nil
	}
	if n, ok := strings.CutPrefix(text, "seq:"); ok {
		seq, err := ParseSeq(n)
		if err != nil {
			return bad("write seq:N with a decimal number")
		}
		return Point{Kind: PointSeq, Seq: seq}, nil
	}
	if name, ok := strings.CutPrefix(text, "checkpoint:"); ok {
		if name == "" {
			return bad("write checkpoint:NAME")
		}
		return Point{Kind: PointCheckpoint, Name: name}, nil
	}
	if ago, ok := strings.CutPrefix(text, "-"); ok {
		d, err := time.ParseDuration(ago)
		if err != nil || d < 0 {
			return bad("write how long before now: -30s, -5m, -2h")
		}
		return Point{Kind: PointAgo, Ago: d}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return bad("use latest, seq:N, a time like 2026-01-31T10:00:00Z, -30s, or checkpoint:NAME")
	}
	return Point{Kind: PointTime, Time: t}, nil
}

// String is the form that ParsePoint reads.
func (p Point) String() string {
	switch p.Kind {
	case PointSeq:
		return "seq:" + p.Seq.String()
	case PointTime:
		return p.Time.Format(time.RFC3339Nano)
	case PointAgo:
		return "-" + p.Ago.String()
	case PointCheckpoint:
		return "checkpoint:" + p.Name
	}
	return "latest"
}
