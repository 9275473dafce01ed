package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/rephub/rephub/journal"
)

// Journal is what a Receiver needs of a group's journal; *journal.Log is one.
type Journal interface {
	Append(journal.Batch) error
	Sync() (journal.Seq, error)
	End() journal.Start
	Serial() journal.Serial
	DurableSerial() journal.Serial
	Durable() journal.Seq
	DurableTimeline() journal.Timeline
}

// ReceiverConfig of a Receiver. Zero fields but Open are the defaults given.
type ReceiverConfig struct {
	// Open says whether the peer may send the group's journal, and where it
	// goes. An error that wraps ErrRefused tells the peer not to come back. The
	// journal stays the caller's.
	Open func(ctx context.Context, peer string, h Hello) (Journal, error)
	// Window is how many bytes of a group are on their way at most, in the
	// network and here in memory, unless one batch has more. 8 MiB.
	Window int64
	// SyncEvery is the shortest time between the beginnings of two syncs. 50 ms.
	SyncEvery time.Duration
	// RetryEvery is how long after an error the disk is tried again. 250 ms.
	RetryEvery time.Duration
	// StallAfter is after how long the sender hears of a disk that hangs. 1 s.
	StallAfter time.Duration
	// Logger; nothing is logged by default.
	Logger *slog.Logger
}

// EnsureDefaults fills in the zero fields.
func (c *ReceiverConfig) EnsureDefaults() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&c.SyncEvery, 50 * time.Millisecond}, {&c.RetryEvery, 250 * time.Millisecond}, {&c.StallAfter, time.Second}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.Window == 0 {
		c.Window = 8 << 20
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Validate tells what is out of range.
func (c *ReceiverConfig) Validate() error {
	switch {
	case c.Open == nil:
		return errors.New("nobody opens journals")
	case c.Window < 1<<10 || c.Window > maxBatch:
		return fmt.Errorf("a window of %d bytes: 1024 to %d are possible", c.Window, maxBatch)
	case c.SyncEvery < 0 || c.RetryEvery < 0 || c.StallAfter < 0:
		return errors.New("durations are not negative")
	}
	return nil
}

// Receiver takes the journals of groups, from all connections of a hub. A group
// has one session at a time: a new one ends the one before, which may belong to
// a connection that nobody knows to be dead yet.
type Receiver struct {
	cfg   ReceiverConfig
	large *semaphore.Weighted // bytes that batches have beyond their windows

	mu struct {
		sync.Mutex
		sessions map[journal.GroupID]*session
	}
}

// NewReceiver makes a receiver for the Config of connections.
func NewReceiver(cfg ReceiverConfig) (*Receiver, error) {
	cfg.EnsureDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("relay receiver: %w", err)
	}
	r := &Receiver{cfg: cfg, large: semaphore.NewWeighted(maxBatch)}
	r.mu.sessions = make(map[journal.GroupID]*session)
	return r, nil
}

// serve takes one stream until it ends, and says why we ended it.
func (r *Receiver) serve(ctx context.Context, peer string, st *stream, h Hello) error {
	log, err := r.cfg.Open(ctx, peer, h)
	if err != nil {
		r.cfg.Logger.Warn("refuse a group's journal", "peer", peer, "group", h.Group, "err", err)
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &session{cfg: &r.cfg, large: r.large, log: log, st: st, cancel: cancel, done: make(chan struct{}), dirty: make(chan struct{}, 1)}
	if err := r.enter(ctx, h.Group, s); err != nil {
		return err
	}
	defer r.leave(h.Group, s)
	err = s.run(ctx, h)
	r.cfg.Logger.Info("group's stream ended", "peer", peer, "group", h.Group, "err", err)
	return err
}

// enter makes s the group's session when the one before has ended.
func (r *Receiver) enter(ctx context.Context, id journal.GroupID, s *session) error {
	for {
		r.mu.Lock()
		old := r.mu.sessions[id]
		if old == nil {
			r.mu.sessions[id] = s
			r.mu.Unlock()
			return nil
		}
		r.mu.Unlock()
		old.cancel()
		select {
		case <-old.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *Receiver) leave(id journal.GroupID, s *session) {
	r.mu.Lock()
	delete(r.mu.sessions, id)
	r.mu.Unlock()
	close(s.done)
}
