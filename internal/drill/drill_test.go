package drill

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/proof"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/crashfs"
	"github.com/rephub/rephub/internal/vfs/errorfs"
)

func at(t *testing.T, zone *time.Location, text string) time.Time {
	t.Helper()
	v, err := time.ParseInLocation("2006-01-02 15:04", text, zone)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestDue(t *testing.T) {
	for _, c := range []struct{ name, at, since, begun, now, due, next string }{
		{"not yet", "02:30", "2026-05-01 12:00", "", "2026-05-02 02:29", "", "2026-05-02 02:30"},
		{"to the minute", "02:30", "2026-05-01 12:00", "", "2026-05-02 02:30", "2026-05-02 02:30", "2026-05-03 02:30"},
		{"begun", "02:30", "2026-05-01 12:00", "2026-05-02 02:30", "2026-05-02 02:31", "", "2026-05-03 02:30"},
		{"what was due before it was scheduled is not", "02:30", "2026-05-02 02:31", "", "2026-05-02 02:40", "", "2026-05-03 02:30"},
		{"late, over midnight", "23:50", "2026-05-01 12:00", "", "2026-05-02 00:10", "2026-05-01 23:50", "2026-05-02 23:50"},
		{"one of many nights without a hub", "02:30", "2026-05-01 12:00", "2026-05-02 02:30", "2026-05-09 02:31", "2026-05-09 02:30", "2026-05-10 02:30"},
		{"earlier than before, the same day", "01:00", "2026-05-02 00:30", "2026-05-01 02:30", "2026-05-02 01:00", "2026-05-02 01:00", "2026-05-03 01:00"},
		{"a clock that was years ahead", "02:30", "2026-05-01 12:00", "2031-01-01 02:30", "2026-05-02 02:31", "2026-05-02 02:30", "2026-05-03 02:30"},
		{"a clock that was set back a little", "02:30", "2026-05-01 12:00", "2026-05-02 02:30", "2026-05-02 02:00", "", "2026-05-03 02:30"},
	} {
		s := Schedule{At: c.at, Since: at(t, time.UTC, c.since)}
		if c.begun != "" {
			s.Begun = at(t, time.UTC, c.begun)
		}
		now := at(t, time.UTC, c.now)
		due, ok := s.Due(now)
		if ok != (c.due != "") || (ok && !due.Equal(at(t, time.UTC, c.due))) {
			t.Errorf("%s: due %v %v, not %q", c.name, due, ok, c.due)
		}
		if next := s.Next(now); !next.Equal(at(t, time.UTC, c.next)) {
			t.Errorf("%s: next %v, not %s", c.name, next, c.next)
		}
	}
}

// Each night has one drill, also those in which the clocks are changed; whoever looks every minute.
func TestNightsOfOtherLengths(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, begin := range []string{"2026-03-27 12:00", "2026-10-23 12:00"} { // two nights before
		now := at(t, zone, begin)
		s := Schedule{At: "02:30", Since: now}
		days := map[string]int{}
		for end := now.Add(96 * time.Hour); now.Before(end); now = now.Add(time.Minute) {
			if due, ok := s.Due(now); ok {
				days[due.Format(time.DateOnly)]++
				if now.Sub(due) > time.Minute {
					t.Errorf("%v was found at %v", due, now)
				}
				s.Begun = due.UTC()
			}
		}
		if len(days) != 4 {
			t.Errorf("%v", days)
		}
		for day, n := range days {
			if n != 1 {
				t.Errorf("%s: %d drills", day, n)
			}
		}
	}
}

func TestParse(t *testing.T) {
	if h, m, err := Parse("23:05"); h != 23 || m != 5 || err != nil {
		t.Errorf("%d:%d, %v", h, m, err)
	}
	for _, bad := range []string{"", "2:30", "24:00", "02:60", "02:30:00", "0230", "02:3x"} {
		if _, _, err := Parse(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func open(t *testing.T, fs vfs.FS) *Store {
	t.Helper()
	s, err := OpenStore(fs, "/g")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func folder(t *testing.T) *crashfs.FS {
	t.Helper()
	fs := crashfs.New()
	if err := fs.MkdirAll("/g", 0o700); err != nil {
		t.Fatal(err)
	}
	return fs
}

// What was said is durable; that a drill began is known before it does.
func TestStore(t *testing.T) {
	fs := folder(t)
	s := open(t, fs)
	noon := at(t, time.UTC, "2026-05-01 12:00")
	if err := s.Begin(noon); !errors.Is(err, ErrNone) {
		t.Errorf("%v", err)
	}
	if err := s.Set("2:30", proof.Checks{}, noon); err == nil {
		t.Error("no time of the day was taken")
	}
	checks := proof.Checks{Serial: "login:", Timeout: time.Minute}
	if err := s.Set("02:30", checks, noon); err != nil {
		t.Fatal(err)
	}
	due := at(t, time.UTC, "2026-05-02 02:30")
	if err := s.Begin(due); err != nil {
		t.Fatal(err)
	}
	fs = fs.Crash(1)
	s = open(t, fs)
	got, ok := s.Get()
	if !ok || got.At != "02:30" || got.Checks != checks || !got.Open() {
		t.Errorf("%+v", got)
	}
	if _, due := got.Due(due.Add(time.Minute)); due {
		t.Error("it is due again")
	}
	ended := due.Add(time.Minute)
	if err := s.End(Outcome{Ended: ended, Outcome: proof.Passed, RTO: time.Second, Report: "r"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Miss(due.Add(24*time.Hour), due.Add(26*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := s.Set("03:00", proof.Checks{}, noon); err != nil { // what is known of the last one stays
		t.Fatal(err)
	}
	got, _ = open(t, fs.Crash(2)).Get()
	if got.Open() || !got.Success.Equal(ended) || got.Last.Outcome != Missed || got.At != "03:00" {
		t.Errorf("%+v, %+v", got, got.Last)
	}
	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(); !errors.Is(err, ErrNone) {
		t.Errorf("%v", err)
	}
	if err := s.End(Outcome{}); err != nil { // of one that ran meanwhile
		t.Errorf("%v", err)
	}
	if _, ok := open(t, fs.Crash(3)).Get(); ok {
		t.Error("it is there again")
	}
	s.Close()
	if err := s.Set("02:30", checks, noon); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	if err := vfs.WriteFileAtomic(fs, "/g/drill", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(fs, "/g"); err == nil {
		t.Error("a damaged file was believed")
	}
}

// What could not be written is not what counts.
func TestStoreFails(t *testing.T) {
	decide, _ := errorfs.Nth(1, errorfs.Write, syscall.ENOSPC)
	s := open(t, errorfs.New(folder(t), decide))
	if err := s.Set("02:30", proof.Checks{}, time.Now()); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	if _, ok := s.Get(); ok {
		t.Error("it counts all the same")
	}
}
