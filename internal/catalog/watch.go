package catalog

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// WatchConfig tunes a Watch. Zero fields are the defaults named here.
type WatchConfig struct {
	// Every is how often the catalog is asked, and how long it may take; 3 s.
	Every time.Duration
	// Patience is how long it may be silent before Hung is called; 30 s. It is
	// counted in questions, so that a pause of our own process is none of its.
	Patience time.Duration
	// Hung is called when Patience has passed without an answer, then after twice
	// that time, and so on up to maxPatience times: a server that is slow to start
	// must not be killed for ever; none.
	Hung   func(error)
	Logger *slog.Logger // none
}

// maxPatience bounds how much more patience a server gets each time, in Patience.
const maxPatience = 16

// Watch asks the catalog for a sign of life, because a server that hangs, and
// has not ended, is noticed by nobody who does not need it just now.
type Watch struct {
	cfg   WatchConfig
	store *Store

	mu struct {
		sync.Mutex
		err   error
		since time.Time
	}
}

// NewWatch makes a Watch; Run does the asking.
func NewWatch(s *Store, cfg WatchConfig) *Watch {
	if cfg.Every == 0 {
		cfg.Every = 3 * time.Second
	}
	if cfg.Patience == 0 {
		cfg.Patience = 30 * time.Second
	}
	if cfg.Hung == nil {
		cfg.Hung = func(error) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Watch{cfg: cfg, store: s}
}

// Run asks until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	tick := time.NewTicker(w.cfg.Every)
	defer tick.Stop()
	first := max(1, int(w.cfg.Patience/w.cfg.Every))
	most := first
	for failed := 0; ; {
		ask, cancel := context.WithTimeout(ctx, w.cfg.Every)
		err := w.store.Ping(ask)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		w.note(err)
		if failed++; err == nil {
			failed, most = 0, first
		}
		if failed >= most {
			w.cfg.Hung(fmt.Errorf("it did not answer for %v: %w", time.Duration(most)*w.cfg.Every, err))
			failed, most = 0, min(2*most, maxPatience*first)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (w *Watch) note(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil && w.mu.err == nil:
		w.mu.since = time.Now()
		w.cfg.Logger.Warn("the catalog does not answer", "err", err)
	case err == nil && w.mu.err != nil:
		w.cfg.Logger.Info("the catalog answers again", "after", time.Since(w.mu.since).Round(time.Millisecond))
	}
	w.mu.err = err
}

// State is nil when the catalog answered the last question, else why it did
// not and since when. It waits for nobody.
func (w *Watch) State() (since time.Time, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.since, w.mu.err
}
