package relay

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the same zones everywhere
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	must(t, err)
	return loc
}

func timetable(t testing.TB, s string) Timetable {
	t.Helper()
	tt, err := ParseTimetable(s)
	must(t, err)
	return tt
}

func TestTimetable(t *testing.T) {
	const m = 1 << 20
	office := "mon-fri 08:00-18:00 20M; fri 22:00-06:00 unlimited; sat,sun 50M; 100M"
	for _, tc := range []struct {
		table, at string
		limit     float64
		until     string // empty: for ever
	}{
		{"", "2026-11-23 12:00", 0, ""},
		{" 100M ", "2026-11-23 12:00", 100 * m, ""},
		{"unlimited", "2026-11-23 12:00", 0, ""},
		{"mon-sun 00:00-24:00 5K; 5KiB/s", "2026-11-23 12:00", 5 << 10, ""},
		{office, "2026-11-23 07:59", 100 * m, "2026-11-23 08:00"}, // a Monday
		{office, "2026-11-23 08:00", 20 * m, "2026-11-23 18:00"},
		{office, "2026-11-23 17:59", 20 * m, "2026-11-23 18:00"},
		{office, "2026-11-23 18:00", 100 * m, "2026-11-24 08:00"},
		{office, "2026-11-27 21:00", 100 * m, "2026-11-27 22:00"},
		{office, "2026-11-27 22:00", 0, "2026-11-28 06:00"},
		{office, "2026-11-28 05:59", 0, "2026-11-28 06:00"},
		{office, "2026-11-28 06:00", 50 * m, "2026-11-30 00:00"},
		{office, "2026-11-30 00:00", 100 * m, "2026-11-30 08:00"},
		{"Fri-Mon 1G", "2026-11-23 12:00", 1 << 30, "2026-11-24 00:00"},
		{"fri-mon 1G", "2026-11-24 00:00", 0, "2026-11-27 00:00"},
		{"22:00-00:00 7", "2026-11-23 23:59", 7, "2026-11-24 00:00"},
		{"22:00-24:00 7", "2026-11-23 21:59", 0, "2026-11-23 22:00"},
		{"sun 23:00-01:00 2K", "2026-11-23 00:30", 2 << 10, "2026-11-23 01:00"},
		{"sun 23:00-01:00 2K", "2026-11-23 01:00", 0, "2026-11-29 23:00"},
		{"08:00-12:00 5M; 12:00-16:00 5M; 9M", "2026-11-23 09:00", 5 * m, "2026-11-23 16:00"},
	} {
		at, err := time.ParseInLocation("2006-01-02 15:04", tc.at, time.UTC)
		must(t, err)
		limit, until := timetable(t, tc.table).At(at.Add(7 * time.Second))
		got := ""
		if !until.IsZero() {
			got = until.Format("2006-01-02 15:04")
		}
		if limit != tc.limit || got != tc.until {
			t.Errorf("%q at %s: %v until %s, not %v until %s", tc.table, tc.at, limit, got, tc.limit, tc.until)
		}
	}
}

// When clocks are set, what counts is what they show.
func TestTimetableWhenClocksAreSet(t *testing.T) {
	for _, tc := range []struct {
		zone, table, at string
		changes         string // day and time in UTC
	}{
		// 02:00 is followed by 03:00.
		{"Europe/Berlin", "02:30-05:00 1M", "2026-03-29T00:30:00Z", "29 01:00, 29 03:00, 30 00:30"},
		{"Europe/Berlin", "02:10-02:50 1M", "2026-03-28T23:00:00Z", "30 00:10, 30 00:50"},
		{"Europe/Berlin", "01:00-02:00 1M", "2026-03-28T23:30:00Z", "29 00:00, 29 01:00, 29 23:00"},
		// 03:00 is followed by 02:00.
		{"Europe/Berlin", "02:30-05:00 1M", "2026-10-25T00:00:00Z", "25 00:30, 25 01:00, 25 01:30, 25 04:00, 26 01:30"},
		{"Europe/Berlin", "01:00-02:30 1M", "2026-10-24T22:30:00Z", "24 23:00, 25 00:30, 25 01:00, 25 01:30, 26 00:00"},
		// The clock goes back half an hour, from 02:00 to 01:30.
		{"Australia/Lord_Howe", "01:45-03:00 1M", "2026-04-04T14:00:00Z", "04 14:45, 04 15:00, 04 15:15, 04 16:30"},
		// A Friday that never was, 2011-12-30.
		{"Pacific/Apia", "fri 1M", "2011-12-29T22:00:00Z", "05 10:00, 06 10:00"},
		// A week from now there is no such time; in two weeks there is.
		{"Europe/Berlin", "sun 02:10-02:50 1M", "2026-03-22T02:00:00Z", "05 00:10, 05 00:50"},
	} {
		at, err := time.Parse(time.RFC3339, tc.at)
		must(t, err)
		at = at.In(zone(t, tc.zone))
		var got []string
		for range strings.Split(tc.changes, ",") {
			_, at = timetable(t, tc.table).At(at)
			got = append(got, at.UTC().Format("02 15:04"))
		}
		if s := strings.Join(got, ", "); s != tc.changes {
			t.Errorf("%s, %q: changes at %s, not %s", tc.zone, tc.table, s, tc.changes)
		}
	}
}

// Going from one change to the next finds those, and only those, that a look at
// every minute finds.
func TestTimetableEveryMinute(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, tc := range []struct{ zone, begin string }{
		{"UTC", "2026-01-01"}, {"Europe/Berlin", "2026-03-15"}, {"Europe/Berlin", "2026-10-11"},
		{"America/New_York", "2026-03-01"}, {"America/New_York", "2026-10-25"},
		{"Australia/Lord_Howe", "2026-03-28"}, {"Pacific/Apia", "2011-12-20"}, {"Asia/Kathmandu", "2026-06-01"},
	} {
		begin, err := time.ParseInLocation("2006-01-02", tc.begin, zone(t, tc.zone))
		must(t, err)
		begin = begin.Add(time.Duration(r.IntN(24*60)) * time.Minute)
		for range 4 {
			var text []string
			for range 1 + r.IntN(4) {
				from := r.IntN(4 * 24)
				to := (from + 1 + r.IntN(20)) % 96
				text = append(text, fmt.Sprintf("%s-%s %02d:%02d-%02d:%02d %dK", dayNames[r.IntN(7)], dayNames[r.IntN(7)], from/4, from%4*15, to/4, to%4*15, 1+r.IntN(3)))
			}
			tt := timetable(t, strings.Join(text, ";"))
			limit, next := tt.At(begin)
			for minute := range 20 * 24 * 60 {
				at := begin.Add(time.Duration(minute) * time.Minute)
				if at.Equal(next) {
					was := limit
					if limit, next = tt.At(at); limit == was {
						t.Fatalf("%s, %s: nothing changes at %s", tc.zone, tt, at)
					}
				}
				if now := tt.limitAt(at); now != limit {
					t.Fatalf("%s, %s: it is %v at %s, %v was said to hold until %s", tc.zone, tt, now, at, limit, next)
				}
			}
		}
	}
}

func TestTimetableErrors(t *testing.T) {
	for s, why := range map[string]string{
		";":                              "empty",
		"20M;":                           "what follows never does",
		"20M; mon 5M":                    "what follows never does",
		"mon-fro 20M":                    `"mon-fro" is neither days`,
		"monday 20M":                     "neither days",
		"mon- 20M":                       "neither days",
		"mon 08:00 20M":                  "hours like",
		"08:00-25:00 20M":                "between 00:00 and 24:00",
		"08:00-24:01 20M":                "between 00:00 and 24:00",
		"8:0-9:00 20M":                   `"8:0" is not a time`,
		"08:00-08:00 20M":                "are none",
		"24:00-08:00 20M":                "are none",
		"08:00-18:00 mon 20M":            `"mon" is one word too many`,
		"mon 08:00 - 18:00 20M":          "hours like",
		"mon":                            `"mon" is not a limit`,
		"20MB/h":                         "is not a limit",
		"-5M":                            "not possible",
		"99999999G":                      "not possible",
		"99999999999999999999":           "is not a limit",
		"0":                              "write unlimited",
		"mon-fri 08:00-18:00=20M":        "is not a limit",
		"mon 20M; tue 5X":                `period 2 of the timetable, "tue 5x"`,
		"mon 08:00-18:00 20M tue 9M; 3M": "too many",
	} {
		if tt, err := ParseTimetable(s); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, %v: nothing about %q", s, tt, err, why)
		}
	}
}

// Keep sets a limit once, when it is due, also when the clock is set meanwhile.
func TestTimetableKeep(t *testing.T) {
	now := time.Date(2026, 11, 23, 7, 59, 30, 0, time.UTC)
	jumps := []time.Duration{0, 0, 10 * time.Hour, -9 * time.Hour, 0} // of the clock, in each pause
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var told []string
	tick := make(chan time.Time, 1)
	timetable(t, "08:00-18:00 20M; 100M").keep(ctx, func(limit float64) {
		told = append(told, fmt.Sprintf("%s %vM", now.Format("15:04:05"), limit/(1<<20)))
	}, func() time.Time { return now }, func(d time.Duration) <-chan time.Time {
		told = append(told, d.String())
		if len(jumps) == 0 {
			cancel()
			return nil
		}
		now = now.Add(d + jumps[0])
		jumps = jumps[1:]
		tick <- now
		return tick
	})
	if s := strings.Join(told, ", "); s != "07:59:30 100M, 30s, 08:00:00 20M, 1m0s, 1m0s, 18:02:00 100M, 1m0s, 09:03:00 20M, 1m0s, 1m0s" {
		t.Errorf("it went like this: %s", s)
	}
}

// It is what a connection takes, and it ends.
func TestTimetableSetsTheLimit(t *testing.T) {
	a, _ := pair(t, Config{}, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		timetable(t, "20M").Keep(ctx, a.SetLimit)
	}()
	await(t, "the limit is set", func() bool { return float64(a.limit.Limit()) == 20<<20 })
	cancel()
	<-ended
}

func FuzzParseTimetable(f *testing.F) {
	for _, s := range []string{"", "20M", "mon-fri 08:00-18:00 20M; sat,sun unlimited; 100MiB/s", "fri-mon 22:00-06:00 1g", "00:00-24:00 1023", ";;", "mon,tue,mon 5k", "24:00-24:00 b"} {
		f.Add(s)
	}
	at := time.Date(2026, 11, 23, 7, 59, 30, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		tt, err := ParseTimetable(s)
		if err != nil {
			return
		}
		again, err := ParseTimetable(tt.String())
		if err != nil || again.String() != tt.String() {
			t.Fatalf("%q became %q, %q: %v", s, tt, again, err)
		}
		limit, until := tt.At(at)
		if limit < 0 || limit > maxRate || !until.IsZero() && !until.After(at) {
			t.Fatalf("%q: %v until %v", s, limit, until)
		}
		if l, u := again.At(at); l != limit || !u.Equal(until) {
			t.Fatalf("%q and %q differ", s, tt)
		}
	})
}
