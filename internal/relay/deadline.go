package relay

import (
	"sync"
	"time"
)

// deadline is a point in time that can be moved while it is waited for.
type deadline struct {
	mu     sync.Mutex
	timer  *time.Timer
	moved  int           // how often it was set: a timer of an earlier one is late
	passed chan struct{} // closed when it has passed
	closed bool
}

// set moves it; the zero time is never.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.moved++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.closed || d.passed == nil {
		d.passed, d.closed = make(chan struct{}), false
	}
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		d.passLocked()
		return
	}
	now := d.moved
	d.timer = time.AfterFunc(left, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.moved == now {
			d.passLocked()
		}
	})
}

func (d *deadline) passLocked() {
	d.closed = true
	close(d.passed)
}

// over is closed when the deadline passes, as it stands now or is moved to, until
// it has passed once.
func (d *deadline) over() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.passed == nil {
		d.passed = make(chan struct{})
	}
	return d.passed
}
