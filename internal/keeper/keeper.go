// Package keeper is the small process between a host's VMs and everything that may fail: it owns the taps, answers them from
// memory, and outlives hub and agent.
package keeper

import (
	"context"
	"log/slog"
	"time"
)

// Config is a keeper's configuration. Zero fields are the defaults named here.
type Config struct {
	// Dir holds the sockets, the lock and the log; it is made if missing.
	Dir string
	// Memory bounds the ring memory of all groups together, in bytes; default 1 GiB. A ring that finds none left goes void.
	Memory int64
	// VoidAfter is how long writes may wait for a full ring, in all, before it goes void; default 20 ms. Waiting is paid back at 2 % of the time that passes.
	VoidAfter time.Duration
	// Grace is how long the keeper lives on without a tap and without a controller; default 2 s.
	Grace time.Duration
	// Linger is Grace for as long as a ring holds entries that nobody has taken; default 60 s.
	Linger time.Duration
	// Logger; default: DIR/keeper.log, bounded in size.
	Logger *slog.Logger
}

// Run is the keeper: it serves until nobody needs it any more, or ctx ends.
func Run(ctx context.Context, cfg Config) error { panic("being written") }
