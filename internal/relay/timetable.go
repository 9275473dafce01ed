package relay

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Timetable says how much bandwidth may be used when. The zero Timetable has no
// limit at any time.
type Timetable struct {
	periods []period
}

// period of a timetable; it begins on some days of the week and may end on the
// next ones.
type period struct {
	days     [7]bool // by time.Weekday
	from, to int     // minutes of the day; it goes over midnight if to <= from
	limit    float64 // bytes per second; 0 is none
}

const wholeDay = 24 * 60

// At is the limit at a time, in bytes per second, 0 for none; it holds until the
// second result, which is zero if it holds for ever. The clock on the wall at
// t's location counts: an hour that is skipped there is skipped, one that comes
// twice counts twice.
func (t Timetable) At(at time.Time) (limit float64, until time.Time) {
	limit = t.limitAt(at)
	for _, next := range t.edges(at) {
		if next.After(at) && (until.IsZero() || next.Before(until)) && t.limitAt(next) != limit {
			until = next
		}
	}
	return limit, until
}

func (t Timetable) limitAt(at time.Time) float64 {
	day, minute := at.Weekday(), at.Hour()*60+at.Minute()
	for _, p := range t.periods {
		if p.covers(day, minute) {
			return p.limit
		}
	}
	return 0
}

func (p *period) covers(day time.Weekday, minute int) bool {
	if p.from < p.to {
		return p.days[day] && minute >= p.from && minute < p.to
	}
	return p.days[day] && minute >= p.from || p.days[(day+6)%7] && minute < p.to
}

// edges are all times in the two weeks to come at which the limit can change, and
// more: a time of the day may come twice, or not at all, when clocks are set; so
// one week may lack what every other one has.
func (t Timetable) edges(at time.Time) (all []time.Time) {
	minutes := []int{0}
	for _, p := range t.periods {
		minutes = append(minutes, p.from, p.to)
	}
	slices.Sort(minutes)
	minutes = slices.Compact(minutes)
	const days = 16
	y, m, d := at.Date()
	for i := -1; i <= days; i++ {
		_, before := time.Date(y, m, d+i-1, 12, 0, 0, 0, at.Location()).Zone()
		_, after := time.Date(y, m, d+i+1, 12, 0, 0, 0, at.Location()).Zone()
		for _, minute := range minutes {
			wall := time.Date(y, m, d+i, 0, minute, 0, 0, time.UTC)
			for _, offset := range []int{before, after} {
				all = append(all, wall.Add(-time.Duration(offset)*time.Second).In(at.Location()))
			}
		}
	}
	for last := at.AddDate(0, 0, days); ; {
		_, end := at.ZoneBounds()
		if end.IsZero() || end.After(last) {
			return all
		}
		at = end
		all = append(all, end)
	}
}

// recheck is how often a timetable is looked up at least: the clock may be set.
const recheck = time.Minute

// Keep calls set with the limit that holds now, and then with every other one
// when its time has come, until ctx ends. Conn.SetLimit is such a set.
func (t Timetable) Keep(ctx context.Context, set func(bytesPerSecond float64)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	t.keep(ctx, set, time.Now, func(d time.Duration) <-chan time.Time {
		timer.Reset(d)
		return timer.C
	})
}

func (t Timetable) keep(ctx context.Context, set func(float64), now func() time.Time, after func(time.Duration) <-chan time.Time) {
	last := -1.0
	for {
		at := now()
		limit, until := t.At(at)
		if limit != last {
			set(limit)
			last = limit
		}
		pause := recheck
		if !until.IsZero() {
			pause = min(pause, until.Sub(at))
		}
		select {
		case <-after(pause):
		case <-ctx.Done():
			return
		}
	}
}

var dayNames = [7]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// String is what ParseTimetable reads.
func (t Timetable) String() string {
	var all []string
	for _, p := range t.periods {
		var words []string
		var days []string
		for i := range 7 { // the week begins on Monday
			if day := (i + 1) % 7; p.days[day] {
				days = append(days, dayNames[day])
			}
		}
		if len(days) < 7 {
			words = append(words, strings.Join(days, ","))
		}
		if p.from != 0 || p.to != wholeDay {
			words = append(words, fmt.Sprintf("%02d:%02d-%02d:%02d", p.from/60, p.from%60, p.to/60, p.to%60))
		}
		all = append(all, strings.Join(append(words, formatRate(p.limit)), " "))
	}
	return strings.Join(all, "; ")
}

func formatRate(limit float64) string {
	if limit == 0 {
		return unlimited
	}
	n, unit := int64(limit), ""
	for _, u := range rateUnits {
		if n%1024 != 0 {
			break
		}
		n, unit = n/1024, string(u)
	}
	return strconv.FormatInt(n, 10) + unit
}
