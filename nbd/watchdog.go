package nbd

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	fastTick   = time.Millisecond      // between looks at backend calls
	stuckTick  = 20 * time.Millisecond // the same when nothing has moved for quietTicks
	idleTick   = time.Second           // between looks for buffers to take back
	quietTicks = 50                    // looks without any movement before the watchdog slows down or rests
)

// watchdog looks after all sessions of a server, so that requests need no hand-off: it takes the lead away from workers stuck
// in a backend call, and has idle connections give their buffers back. It runs only while there is something to look at.
type watchdog struct {
	fast atomic.Bool // looks at calls; else a new call must wake it
	wake chan struct{}
	idle time.Duration // idleTick

	state struct {
		sync.Mutex
		sessions map[*session]context.Context // with that of its backend calls
		running  bool
		stopped  chan struct{} // closed by stop
		done     sync.WaitGroup
	}
}

// watched is what the watchdog remembers of a session between two looks.
type watched struct {
	turn     uint64
	activity uint64
	idle     int // idle ticks without activity
}

func newWatchdog() *watchdog {
	d := &watchdog{wake: make(chan struct{}, 1), idle: idleTick}
	d.state.sessions = make(map[*session]context.Context)
	d.state.stopped = make(chan struct{})
	return d
}

func (d *watchdog) add(ctx context.Context, s *session) {
	d.state.Lock()
	defer d.state.Unlock()
	d.state.sessions[s] = ctx
	if !d.state.running {
		d.state.running = true
		d.state.done.Go(d.run)
	}
}

// remove forgets s; on return the watchdog does not touch it any more.
func (d *watchdog) remove(s *session) {
	d.state.Lock()
	defer d.state.Unlock()
	delete(d.state.sessions, s)
}

// stop ends the watchdog; all sessions are gone.
func (d *watchdog) stop() {
	d.state.Lock()
	select {
	case <-d.state.stopped:
	default:
		close(d.state.stopped)
	}
	d.state.Unlock()
	d.state.done.Wait()
}

// notice is called at the start of every backend call of a concurrent export, after the turn has been set.
func (d *watchdog) notice() {
	if !d.fast.Load() && d.fast.CompareAndSwap(false, true) {
		d.poke()
	}
}

// noticeBig says that a connection has borrowed a buffer.
func (d *watchdog) noticeBig() { d.poke() }

func (d *watchdog) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *watchdog) run() {
	timer := time.NewTimer(d.idle)
	defer timer.Stop()
	quiet, lastIdle, resting := 0, time.Now(), false
	for {
		if resting {
			timer.Stop()
		}
		select {
		case <-d.state.stopped:
			return
		case <-d.wake:
			quiet = 0
		case <-timer.C:
		}
		if d.fast.Load() {
			moved, calling := d.lookAtCalls()
			if quiet++; moved {
				quiet = 0
			}
			if quiet >= quietTicks && !calling {
				d.rest()
			}
		}
		big := true
		if now := time.Now(); now.Sub(lastIdle) >= d.idle {
			lastIdle = now
			big = d.lookForIdle()
		}
		next := d.idle
		switch fast := d.fast.Load(); {
		case fast && quiet < quietTicks:
			next = fastTick
		case fast:
			next = stuckTick
		}
		resting = !d.fast.Load() && !big
		timer.Reset(next)
	}
}

// lookAtCalls steals the lead wherever a call has lasted since the last look. It reports whether anything has moved since, and
// whether any call is under way.
func (d *watchdog) lookAtCalls() (moved, calling bool) {
	d.state.Lock()
	defer d.state.Unlock()
	for s, ctx := range d.state.sessions {
		if !s.info.Concurrent {
			continue
		}
		turn := s.lead.turn.Load()
		if turn != s.watched.turn {
			s.watched.turn = turn
			moved = true
		} else if turn&1 == 1 && s.steal(ctx, turn) {
			moved = true
		}
		calling = calling || turn&1 == 1
	}
	return moved, calling
}

// rest makes the next call wake the watchdog. A call that began before it could see that is found by a last look.
func (d *watchdog) rest() {
	d.fast.Store(false)
	if _, calling := d.lookAtCalls(); calling {
		d.fast.Store(true)
	}
}

// lookForIdle interrupts the reads of connections that hold big buffers and have done nothing for two ticks, so that they give
// them back. It reports whether any connection holds big buffers.
func (d *watchdog) lookForIdle() (big bool) {
	d.state.Lock()
	defer d.state.Unlock()
	for s := range d.state.sessions {
		if !s.big.Load() {
			continue
		}
		big = true
		if a := s.activity.Load(); a != s.watched.activity {
			s.watched.activity, s.watched.idle = a, 0
			continue
		}
		if s.watched.idle++; s.watched.idle >= 2 {
			s.watched.idle = 0
			s.big.Store(false)
			s.shrink.Store(true)
			s.raw.SetReadDeadline(aLongTimeAgo)
		}
	}
	return big
}
