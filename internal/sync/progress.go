package sync

import (
	stdsync "sync"
	"time"

	"github.com/rephub/rephub/block"
)

// rateWindow is how far back Progress.Rate looks.
const rateWindow = 3 * time.Second

// meter counts what is done and tells the caller.
type meter struct {
	tell func(Progress)
	now  func() time.Time

	mu     stdsync.Mutex
	p      Progress
	since  time.Time // start of the rate window
	before int64     // p.Done then
}

func newMeter(o *Options, done, total int64) *meter {
	return &meter{tell: o.Progress, now: o.Now, p: Progress{Done: done, Total: total}, since: o.Now(), before: done}
}

// add counts n bytes done, of which copied were moved.
func (m *meter) add(n, copied int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p.Done += n
	m.p.Copied += copied
	now := m.now()
	if d := now.Sub(m.since); d > 0 {
		m.p.Rate = float64(m.p.Done-m.before) / d.Seconds()
		if d >= rateWindow { // keep half of the window, so that the rate has no gaps
			m.since, m.before = now.Add(-d/2), m.p.Done-(m.p.Done-m.before)/2
		}
	}
	if m.tell != nil {
		m.tell(m.p)
	}
}

// lowWater follows which byte of a volume everything below is done.
type lowWater struct {
	mu   stdsync.Mutex
	done block.RangeSet
	low  int64
}

// add counts r as done and returns the low-water mark.
func (w *lowWater) add(r block.Range) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done.Add(r)
	if first := w.done.Ranges()[0]; first.Off <= w.low && first.End() > w.low {
		w.low = first.End()
		w.done.Subtract(first)
	}
	return w.low
}

func (w *lowWater) get() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.low
}
