package keeper

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
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

// patience counts how long something has lasted, in the watcher's own timely ticks: when the watcher itself did not get to run, the machine
// is starved, and nothing is known about the keeper.
type patience struct{ lasted time.Duration }

// tick adds a tick that came since after the one before, and returns the time counted.
func (p *patience) tick(on bool, since, tick time.Duration) time.Duration {
	switch {
	case !on:
		p.lasted = 0
	case since <= 2*tick:
		p.lasted += since
	}
	return p.lasted
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
	tick := time.NewTicker(cfg.Tick)
	defer tick.Stop()
	var stopped, silent, starved patience
	queue := runQueue{pid: c.pid}
	var ping <-chan reply
	var id uint64
	defer func() { c.forget(id) }()
	last, asked := time.Now(), time.Time{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.done:
			return nil
		case <-tick.C:
		}
		now := time.Now()
		since := now.Sub(last)
		last = now
		if c.Taps() == 0 {
			continue // nobody to save
		}
		halted := p.stopped()
		if halted && !cfg.Leave {
			unix.Kill(c.pid, unix.SIGCONT)
		}
		if stopped.tick(halted, since, cfg.Tick) >= cfg.Stopped {
			c.cutOff("stopped")
			return ErrStopped
		}
		select {
		case <-ping:
			ping = nil
		default:
		}
		waits := ping != nil && queue.waits(since)
		if ping == nil {
			queue.forget()
		}
		if silent.tick(ping != nil && !waits, since, cfg.Tick) >= cfg.Silent || starved.tick(ping != nil, since, cfg.Tick) >= cfg.Starved {
			c.cutOff("silent")
			return ErrSilent
		}
		if ping == nil && now.Sub(asked) >= pingEvery {
			asked = now
			if ping, id, err = c.start(request{Op: opPing}); err != nil {
				ping = nil // the connection is ending
			}
		}
	}
}

func (c *Client) cutOff(why string) {
	n := c.CutOff()
	c.log.Error("keeper hangs: its taps are cut off", "pid", c.pid, "found", why, "taps", n)
}
