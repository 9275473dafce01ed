package tap

import (
	"context"
	"time"

	"github.com/rephub/rephub/internal/giveway"
)

// DrainConfig tunes Drain. Zero fields are the defaults named here.
type DrainConfig struct {
	// MaxRun is the most that is handed on at once, in bytes; default 4 MiB.
	MaxRun int
	// Tick is how long the next run may gather after a small one at most; default 2 ms. It costs latency only under load: a write that comes to an idle ring is handed on at once.
	Tick time.Duration
	// Enough is how many bytes need not gather any longer; default 128 KiB. Drain goes by what came in the time before, and waits a tenth of Tick at least.
	Enough int
	// Changed, if set, is called in Drain's goroutine, between runs, when State has changed (as for Wait) and once at first.
	Changed func()
}

// Drain hands runs to sink and releases them when sink returns nil, until ctx ends, sink fails, or the ring turns out broken.
// A run that sink failed on is not released: the next consumer finds it again.
func (c *Consumer) Drain(ctx context.Context, cfg DrainConfig, sink func(Run) error) error {
	if cfg.MaxRun <= 0 {
		cfg.MaxRun = 4 << 20
	}
	if cfg.Tick <= 0 {
		cfg.Tick = 2 * time.Millisecond
	}
	if cfg.Enough <= 0 {
		cfg.Enough = 128 << 10
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	seen, pause := ^uint64(0), cfg.Tick
	for ctx.Err() == nil {
		if v := c.ring.head.stateVersion.Load() &^ 1; v != seen {
			seen = v
			cfg.Changed()
		}
		run, ok, err := c.Next(cfg.MaxRun)
		if err != nil {
			return err
		}
		if !ok {
			if err := c.Wait(ctx); err != nil {
				return err
			}
			continue
		}
		if err := sink(run); err != nil {
			return err
		}
		giveway.Yield()
		if err := c.Release(run); err != nil {
			return err
		}
		if run.Bytes() < cfg.MaxRun/2 {
			pause = cfg.pause(pause, run.Bytes())
			if err := c.Pause(ctx, pause); err != nil {
				return err
			}
		}
	}
	return context.Cause(ctx)
}

// pause is how long to gather after a run of n bytes that had gathered for last: half way to the time in which Enough would have come.
func (cfg *DrainConfig) pause(last time.Duration, n int) time.Duration {
	enough := last * time.Duration(cfg.Enough) / time.Duration(n)
	return min(max((last+enough)/2, cfg.Tick/10), cfg.Tick)
}
