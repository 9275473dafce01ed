package api

import (
	"strconv"
	"strings"
	"time"
)

// PointKind is one of the ways to say which point is meant.
type PointKind string

// The kinds of a Point.
const (
	PointLatest     PointKind = "latest"
	PointSeq        PointKind = "seq"
	PointTime       PointKind = "time"
	PointAgo        PointKind = "ago"
	PointCheckpoint PointKind = "checkpoint"
)

// Point is a recovery point as people write it: latest, seq:N, an RFC 3339
// time, -30s, checkpoint:NAME.
type Point struct {
	Kind PointKind
	Seq  uint64        // PointSeq
	Time time.Time     // PointTime
	Ago  time.Duration // PointAgo, not negative
	Name string        // PointCheckpoint
}

// ParsePoint reads a point; the empty string is latest. Errors are *Error.
func ParsePoint(s string) (Point, error) {
	bad := func(hint string) (Point, error) {
		return Point{}, Errorf(CodeInvalid, "bad POINT %q", s).WithHint("%s", hint)
	}
	if s == "" || s == "latest" {
		return Point{Kind: PointLatest}, nil
	}
	if n, ok := strings.CutPrefix(s, "seq:"); ok {
		seq, err := strconv.ParseUint(n, 10, 64)
		if err != nil {
			return bad("write seq:N with a decimal number")
		}
		return Point{Kind: PointSeq, Seq: seq}, nil
	}
	if name, ok := strings.CutPrefix(s, "checkpoint:"); ok {
		if name == "" {
			return bad("write checkpoint:NAME")
		}
		return Point{Kind: PointCheckpoint, Name: name}, nil
	}
	if ago, ok := strings.CutPrefix(s, "-"); ok {
		d, err := time.ParseDuration(ago)
		if err != nil || d < 0 {
			return bad("write how long before now: -30s, -5m, -2h")
		}
		return Point{Kind: PointAgo, Ago: d}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return bad("use latest, seq:N, a time like 2026-01-31T10:00:00Z, -30s, or checkpoint:NAME")
	}
	return Point{Kind: PointTime, Time: t}, nil
}

// String is the form that ParsePoint reads.
func (p Point) String() string {
	switch p.Kind {
	case PointSeq:
		return "seq:" + strconv.FormatUint(p.Seq, 10)
	case PointTime:
		return p.Time.Format(time.RFC3339Nano)
	case PointAgo:
		return "-" + p.Ago.String()
	case PointCheckpoint:
		return "checkpoint:" + p.Name
	}
	return "latest"
}
