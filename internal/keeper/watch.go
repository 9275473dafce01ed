package keeper

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rephub/rephub/internal/giveway"
)

// What a Watch may find.
var (
	ErrStopped = errors.New("keeper is stopped")
	ErrSilent  = errors.New("keeper does not answer")
)

// WatchConfig tunes Watch. Zero fields are the defaults named here.
type WatchConfig struct {
	// Stopped is how long the keeper may be stopped (state T) until the taps are cut; default 100 ms.
	Stopped time.Duration
	// Silent is how long a ping may go unanswered until the taps are cut; default 100 ms.
	Silent time.Duration
	// Starved is Silent while the keeper does not answer because it waits for a processor; default 400 ms. It would answer as soon as it
	// gets one, and a QEMU may crash when it loses its tap.
	Starved time.Duration
	// Tick is how often to look; default 25 ms.
	Tick time.Duration
	// Leave does without the attempt to continue (SIGCONT) a stopped keeper before its taps are cut.
	Leave bool
}

// pingEvery is the least time between two pings.
const pingEvery = 100 * time.Millisecond

// EnsureDefaults fills zero fields.
func (c *WatchConfig) EnsureDefaults() {
	if c.Stopped == 0 {
		c.Stopped = 100 * time.Millisecond
	}
	if c.Silent == 0 {
		c.Silent = 100 * time.Millisecond
	}
	if c.Starved == 0 {
		c.Starved = 400 * time.Millisecond
	}
	if c.Tick == 0 {
		c.Tick = 25 * time.Millisecond
	}
}

// Watch is the last resort against a keeper that hangs and so hangs its VMs: it cuts their taps (CutOff). It returns what it found after doing
// so, ErrStopped or ErrSilent; nil when ctx or the client's connection ends.
func Watch(ctx context.Context, c *Client, cfg WatchConfig) error {
	cfg.EnsureDefaults()
	p, err := openProc(c.pid)
	if err != nil {
		return fmt.Errorf("watch keeper: %w", err)
	}
	defer p.Close()
	giveway.First(func(denied error) {
		if denied != nil {
			c.log.Warn("the keeper is watched at the priority of this process", "err", denied)
		}
		w := watcher{c: c, cfg: cfg, proc: p, queue: runQueue{pid: c.pid}}
		defer w.end()
		err = w.run(ctx)
	})
	return err
}

// watcher is a running Watch.
type watcher struct {
	c     *Client
	cfg   WatchConfig
	proc  proc
	queue runQueue
	pulse *pulse // nil while there is no connection
	asked time.Time
	// spare is a ping over the client's connection, in place of one over the pulse's; nil while there is none.
	spare   <-chan reply
	spareID uint64
	warned  bool

	halted                   bool // at the last look
	stopped, silent, starved patience
}

// patience counts how long something has lasted.
type patience struct{ lasted time.Duration }

// add adds a time to what was counted if it was so all the time, and returns that.
func (p *patience) add(on bool, d time.Duration) time.Duration {
	p.lasted += d
	if !on {
		p.lasted = 0
	}
	return p.lasted
}

func (w *watcher) run(ctx context.Context) error {
	w.connect()
	last := time.Now()
	for {
		// The thread sleeps by itself: a timer would need another one of this process to get a processor.
		pause := unix.NsecToTimespec(w.cfg.Tick.Nanoseconds())
		_ = unix.Nanosleep(&pause, nil) // shorter after a signal, and no harm done
		select {
		case <-ctx.Done():
			return nil
		case <-w.c.done:
			return nil
		default:
		}
		now := time.Now()
		since := now.Sub(last)
		last = now
		if w.c.Taps() == 0 {
			continue // nobody to save
		}
		if err := w.look(since); err != nil {
			n := w.c.CutOff()
			w.c.log.Error("keeper hangs: its taps are cut off", "pid", w.c.pid, "found", err, "taps", n)
			return err
		}
		w.ask(now)
	}
}

// look finds out how the keeper is, since after the last look.
func (w *watcher) look(since time.Duration) error {
	// Of a look that comes late not all counts, and it says nothing about the keeper alone: the machine is short of processors or memory,
	// or has slept.
	count := min(since, 2*w.cfg.Tick)
	late := count < since
	before := w.halted
	if w.halted = w.proc.stopped(); w.halted && !w.cfg.Leave {
		unix.Kill(w.c.pid, unix.SIGCONT)
	}
	if w.stopped.add(w.halted && before, count) >= w.cfg.Stopped {
		return ErrStopped
	}
	pending := w.unanswered()
	excused := pending && (late || w.spare != nil || w.queue.waits(since))
	if w.silent.add(pending && !excused, count) >= w.cfg.Silent || w.starved.add(pending, count) >= w.cfg.Starved {
		return ErrSilent
	}
	return nil
}

// unanswered reports whether the keeper owes an answer.
func (w *watcher) unanswered() bool {
	if w.pulse != nil {
		if err := w.pulse.hear(); err != nil {
			w.hangUp() // if the keeper has ended, the client's connection has, too
		}
	}
	select {
	case <-w.spare: // nil or closed, too: then the connection has ended
		w.spare = nil
	default:
	}
	return w.spare != nil || w.pulse != nil && w.pulse.pending()
}

// ask sends a ping when it is time to: over the client's connection, where orders and this process's haste may hold its answer up, as long as
// there is no better way.
func (w *watcher) ask(now time.Time) {
	if now.Sub(w.asked) < pingEvery || w.spare != nil || w.pulse != nil && w.pulse.pending() {
		return
	}
	w.asked = now
	if w.pulse == nil {
		w.connect()
	}
	w.queue.waits(0) // what the next look compares with
	if w.pulse != nil && w.pulse.greeted {
		if err := w.pulse.ask(); err == nil {
			return
		}
		w.hangUp()
	}
	var err error
	if w.spare, w.spareID, err = w.c.start(request{Op: opPing}); err != nil {
		w.spare = nil // the connection is ending
	}
}

func (w *watcher) connect() {
	var err error
	if w.pulse, err = openPulse(w.c.cfg.Dir, w.c.pid); err != nil && !w.warned {
		w.warned = true
		w.c.log.Warn("the keeper is watched over the connection of its orders", "err", err)
	}
}

func (w *watcher) hangUp() {
	if w.pulse != nil {
		w.pulse.Close()
		w.pulse = nil
	}
}

// end gives everything back.
func (w *watcher) end() {
	w.hangUp()
	w.c.forget(w.spareID)
}
