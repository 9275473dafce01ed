package replica

import (
	"testing"
	"time"

	"github.com/rephub/rephub/journal"
)

// Automatic checkpoints are what their names find, are told in pages, and go with
// the history; nothing is stored for them.
func TestAutoCheckpoints(t *testing.T) {
	w := newWorld(t, 100)
	w.history(200) // a second apart
	newest := w.s.Log().Appended()
	q := AutoQuery{Every: 10 * time.Second, Limit: 1000, Settled: w.clock}
	all, more, err := w.s.Auto(q)
	must(t, err)
	if more || len(all) < 19 || len(all) > 21 {
		t.Fatalf("%d of them in 200 s, more: %t", len(all), more)
	}
	for i, m := range all {
		if i > 0 && (m.Seq <= all[i-1].Seq || m.Seq > all[i-1].Seq+10 || !m.At.After(all[i-1].At)) {
			t.Errorf("%+v comes after %+v", m, all[i-1])
		}
		p := journal.Point{Kind: journal.PointCheckpoint, Name: journal.AutoName(m.At)}
		if at, _, err := w.s.Resolve(p, w.clock); err != nil || at != m.Seq {
			t.Errorf("%s is %d, %v and not %d", p, at, err, m.Seq)
		}
	}
	q.Limit = 7
	var paged []journal.Mark
	for more := true; more; {
		var page []journal.Mark
		page, more, err = w.s.Auto(q)
		must(t, err)
		paged = append(page, paged...)
		q.Before = page[0].At.Add(-time.Nanosecond)
	}
	if len(paged) != len(all) || paged[0] != all[0] {
		t.Errorf("page by page there are %d, at once %d", len(paged), len(all))
	}
	q.Limit, q.Before, q.Settled = 1000, time.Time{}, time.Time{}
	unsettled, _, err := w.s.Auto(q)
	must(t, err)
	if n := len(unsettled); n == 0 || unsettled[n-1].Seq >= newest {
		t.Errorf("a stretch that may get more points is listed: %+v", unsettled)
	}
	old := all[0]
	_, err = w.s.Retain(t.Context(), w.clock, Retention{History: 50 * time.Second})
	must(t, err)
	left, _, err := w.s.Auto(AutoQuery{Every: 10 * time.Second, Limit: 1000, Settled: w.clock})
	must(t, err)
	if len(left) > 6 || len(left) < 5 {
		t.Errorf("%d are left of 50 s", len(left))
	}
	if _, _, err := w.s.Resolve(journal.Point{Kind: journal.PointCheckpoint, Name: journal.AutoName(old.At)}, w.clock); err == nil {
		t.Error("one that was dropped is found")
	}
}
