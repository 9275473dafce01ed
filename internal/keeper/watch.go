package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
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
	// Stopped is how long the keeper may be stopped (state T) until the taps are cut; default 150 ms.
	Stopped time.Duration
	// Silent is how long a ping may go unanswered until the taps are cut; default 400 ms.
	Silent time.Duration
	// Tick is how often to look; default 30 ms.
	Tick time.Duration
	// Leave does without the attempt to continue (SIGCONT) a stopped keeper before its taps are cut.
	Leave bool
}

// pingEvery is the least time between two pings.
const pingEvery = 100 * time.Millisecond

// EnsureDefaults fills zero fields.
func (c *WatchConfig) EnsureDefaults() {
	if c.Stopped == 0 {
		c.Stopped = 150 * time.Millisecond
	}
	if c.Silent == 0 {
		c.Silent = 400 * time.Millisecond
	}
	if c.Tick == 0 {
		c.Tick = 30 * time.Millisecond
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
	var stopped, silent patience
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
		if silent.tick(ping != nil, since, cfg.Tick) >= cfg.Silent {
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

// proc is another process, by a descriptor that never comes to mean a later one of the same number.
type proc struct{ stat *os.File }

func openProc(pid int) (proc, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return proc{}, fmt.Errorf("open process %d: %w", pid, err)
	}
	return proc{f}, nil
}

// Close forgets the process.
func (p proc) Close() error { return p.stat.Close() }

// stopped reports whether a signal has stopped it. (A debugger's stop counts too: the VM waits no less.)
func (p proc) stopped() bool {
	var buf [512]byte
	n, _ := p.stat.ReadAt(buf[:], 0)
	// PID (NAME) STATE …; the name may hold anything.
	i := bytes.LastIndexByte(buf[:n], ')')
	return i >= 0 && i+2 < n && (buf[i+2] == 'T' || buf[i+2] == 't')
}
