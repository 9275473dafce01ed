package journal

import (
	"errors"
	"testing"
	"time"
)

func TestParsePoint(t *testing.T) {
	at := time.Date(2026, 1, 31, 10, 0, 0, 5e8, time.UTC)
	for text, want := range map[string]Point{
		"":                         {},
		"latest":                   {Kind: PointLatest},
		"seq:12":                   {Kind: PointSeq, Seq: 12},
		"2026-01-31T10:00:00.5Z":   {Kind: PointTime, Time: at},
		"-30s":                     {Kind: PointAgo, Ago: 30 * time.Second},
		"-1h30m":                   {Kind: PointAgo, Ago: 90 * time.Minute},
		"checkpoint:before-update": {Kind: PointCheckpoint, Name: "before-update"},
	} {
		if got, err := ParsePoint(text); err != nil || got != want {
			t.Errorf("ParsePoint(%q) = %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"now", "x", "seq:", "seq:-1", "seq:x", "-", "-30", "--30s", "30s", "checkpoint:", "2026-01-31", "LATEST"} {
		_, err := ParsePoint(text)
		var e *PointError
		if !errors.As(err, &e) || e.Text != text || e.Hint() == "" {
			t.Errorf("ParsePoint(%q): %v, want a PointError with a hint", text, err)
		}
	}
}

func FuzzParsePoint(f *testing.F) {
	for _, s := range []string{"latest", "seq:1", "-30s", "checkpoint:x", "2026-01-31T10:00:00Z", "-1e9h", "seq:18446744073709551616"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePoint(s)
		if err != nil {
			return
		}
		again, err := ParsePoint(p.String())
		if err != nil || !again.Time.Equal(p.Time) || again.Seq != p.Seq || again.Ago != p.Ago || again.Name != p.Name || again.Kind != p.Kind {
			t.Errorf("%q is %+v, and again %+v, %v", s, p, again, err)
		}
	})
}
