package hub

import (
	"testing"
	"time"
)

// A host's clock is an hour ahead and the way to it takes between 40 and 200 ms:
// its times are known to within what the two directions may differ by.
func TestClocksOfTwoHosts(t *testing.T) {
	const ahead, way = time.Hour, 20 * time.Millisecond
	var c clock
	ours := time.Unix(1e9, 0)
	for _, late := range []time.Duration{30, 0, 160, 5} {
		late *= time.Millisecond
		theirs := ours.Add(ahead).UnixNano()
		c.see(ours.Add(way+late), theirs, 2*way+late)
		ours = ours.Add(time.Second)
	}
	if got := c.ours(ours.Add(ahead).UnixNano()).Sub(ours); got.Abs() > time.Millisecond {
		t.Errorf("a time of theirs is off by %s", got)
	}
	// It was set right; soon that is known.
	ours = ours.Add(2 * clockAge)
	c.see(ours.Add(way), ours.UnixNano(), 2*way)
	if got := c.ours(ours.UnixNano()).Sub(ours); got.Abs() > time.Millisecond {
		t.Errorf("after the clock was set, a time of theirs is off by %s", got)
	}
}
