package relay

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	unlimited = "unlimited"
	rateUnits = "KMG"
	// maxRate is no less than any network has, bytes per second.
	maxRate = 1 << 40
)

// ParseTimetable reads periods that are separated by semicolons:
//
//	mon-fri 08:00-18:00 20M; sat,sun unlimited; 100M
//
// Each has days, or none for all of them; hours, or none for the whole day; and
// a limit in bytes per second, with K, M or G for powers of 1024, or the word
// unlimited. The first one that fits counts; there is no limit when none does.
// Hours that end before they begin go over midnight, and belong to the day on
// which they begin. Nothing at all is no limit at any time.
func ParseTimetable(s string) (Timetable, error) {
	var t Timetable
	if strings.TrimSpace(s) == "" {
		return t, nil
	}
	all := strings.Split(strings.ToLower(s), ";")
	for i, text := range all {
		p, always, err := parsePeriod(text)
		if err == nil && always && i < len(all)-1 {
			err = errors.New("it holds always, so what follows never does")
		}
		if err != nil {
			return Timetable{}, fmt.Errorf("period %d of the timetable, %q: %w", i+1, strings.TrimSpace(text), err)
		}
		t.periods = append(t.periods, p)
	}
	return t, nil
}

// parsePeriod also tells whether the period has no end.
func parsePeriod(text string) (p period, always bool, err error) {
	p = period{days: [7]bool{true, true, true, true, true, true, true}, to: wholeDay}
	words := strings.Fields(text)
	if len(words) == 0 {
		return p, false, errors.New("it is empty")
	}
	limit, words := words[len(words)-1], words[:len(words)-1]
	if p.limit, err = parseRate(limit); err != nil {
		return p, false, err
	}
	always = len(words) == 0
	if len(words) > 0 && !strings.Contains(words[0], ":") {
		if p.days, err = parseDays(words[0]); err != nil {
			return p, false, err
		}
		words = words[1:]
	}
	if len(words) > 0 {
		if p.from, p.to, err = parseHours(words[0]); err != nil {
			return p, false, err
		}
		words = words[1:]
	}
	if len(words) > 0 {
		return p, false, fmt.Errorf("%q is one word too many: days, hours and a limit, in this order, without spaces in them", words[0])
	}
	return p, always, nil
}

func parseRate(s string) (float64, error) {
	if s == unlimited {
		return 0, nil
	}
	text := strings.TrimSuffix(s, "/s")
	if t, ok := strings.CutSuffix(text, "b"); ok {
		text = strings.TrimSuffix(t, "i")
	}
	unit := int64(1)
	if n := len(text); n > 0 {
		if i := strings.IndexByte(rateUnits, text[n-1]&^0x20); i >= 0 {
			text, unit = text[:n-1], 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is not a limit: 500K, 20M, 1G (bytes per second) and %s are some", s, unlimited)
	case n == 0:
		return 0, fmt.Errorf("a limit of 0 would let nothing through; write %s if that is meant", unlimited)
	case n < 0 || n > maxRate/unit:
		return 0, fmt.Errorf("a limit of %s is not possible", s)
	}
	return float64(n * unit), nil
}

func parseDays(s string) (days [7]bool, err error) {
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, to := slices.Index(dayNames[:], first), slices.Index(dayNames[:], last)
		if from < 0 || to < 0 {
			return days, fmt.Errorf("%q is neither days (mon-fri, or sat,sun) nor hours (08:00-18:00)", s)
		}
		for day := from; ; day = (day + 1) % 7 {
			days[day] = true
			if day == to {
				break
			}
		}
	}
	return days, nil
}

func parseHours(s string) (from, to int, err error) {
	first, last, _ := strings.Cut(s, "-")
	from, err = parseTime(first)
	if err == nil {
		to, err = parseTime(last)
	}
	switch {
	case err != nil:
		return 0, 0, fmt.Errorf("%q are not hours like 08:00-18:00: %w", s, err)
	case from == to || from == wholeDay:
		return 0, 0, fmt.Errorf("hours from %s to %s are none; leave them out for the whole day", first, last)
	}
	return from, to, nil
}

// parseTime is a time of the day in minutes, 24:00 included.
func parseTime(s string) (int, error) {
	hour, minute, _ := strings.Cut(s, ":")
	h, errH := strconv.ParseUint(hour, 10, 8)
	m, errM := strconv.ParseUint(minute, 10, 8)
	if errH != nil || errM != nil || len(minute) != 2 || len(hour) > 2 || m > 59 || h*60+m > wholeDay {
		return 0, fmt.Errorf("%q is not a time between 00:00 and 24:00", s)
	}
	return int(h*60 + m), nil
}
