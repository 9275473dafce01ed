package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/rephub/rephub/journal"
)

// SenderConfig of a Sender. Log and Wake must be given.
type SenderConfig struct {
	// Log is the numbered journal to ship, the spool. It stays the caller's.
	Log *journal.Log
	// Wake gets something after appends; a channel of capacity 1 into which
	// the appender puts a value if there is room.
	Wake <-chan struct{}
	// Changed is called after Status has changed, by one goroutine at a time.
	// While it does not return, no ack is taken.
	Changed func()
	// Logger; nothing is logged by default.
	Logger *slog.Logger
}

// Status of a Sender.
type Status struct {
	// Durable is the receiver's last ack. Its serial, seq and epoch never go
	// back; zero as long as no receiver was asked.
	Durable Ack
	// Sent is the last batch on its way, or there. It goes back when a new
	// connection shows that the receiver does not have it.
	Sent journal.Serial
	// Stalled is why the receiver takes nothing now, in its words, or empty.
	Stalled string
}

// Sender ships the spool of one group, over one connection after the other.
type Sender struct {
	cfg   SenderConfig
	group journal.GroupID

	mu struct {
		sync.Mutex
		running  bool
		status   Status
		progress chan struct{} // closed when more is durable; nil: nobody waits
	}
}

// NewSender makes a sender. Nothing is durable at the receiver as far as it
// knows before the receiver has said so.
func NewSender(cfg SenderConfig) (*Sender, error) {
	if cfg.Log == nil || cfg.Wake == nil {
		return nil, errors.New("relay sender: a log and a wake channel are needed")
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Sender{cfg: cfg, group: cfg.Log.Group()}, nil
}

// Status is a snapshot.
func (s *Sender) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.status
}

// Durable is what the receiver has confirmed to survive a power loss there.
func (s *Sender) Durable() Ack { return s.Status().Durable }

// Run ships over c, whose Run somebody else calls, until ctx ends or something
// stops it: ErrDiverged and ErrRefused, which do not go away by themselves;
// ErrInterrupted, after which it can run again over the same connection; the
// connection's error; or the spool's own.
func (s *Sender) Run(ctx context.Context, c *Conn) error {
	s.mu.Lock()
	if s.mu.running {
		s.mu.Unlock()
		return errors.New("relay sender is already running")
	}
	s.mu.running = true
	s.mu.Unlock()
	err := s.run(ctx, c)
	s.mu.Lock()
	s.mu.running = false
	s.mu.status.Stalled = ""
	s.mu.Unlock()
	s.cfg.Changed()
	return fmt.Errorf("ship group %s: %w", s.group, err)
}

func (s *Sender) run(ctx context.Context, c *Conn) error {
	end := s.cfg.Log.End()
	st, err := c.openStream(typeOpen, Hello{Group: s.group, Epoch: end.Timeline.Epoch, Serial: end.Serial, Last: end.Last})
	if err != nil {
		return err
	}
	err = s.converse(ctx, st)
	st.finish(err)
	return err
}

func (s *Sender) converse(ctx context.Context, st *stream) error {
	var a answer
	if err := st.await(ctx, st.kick, func() bool {
		if st.answered != nil {
			a = *st.answered
		}
		return st.answered != nil
	}); err != nil {
		return err
	}
	f, err := s.position(a)
	if err != nil {
		return err
	}
	sh := shipper{s: s, st: st, f: f, at: a.Serial}
	defer sh.close()
	s.mu.Lock()
	s.mu.status.Sent = a.Serial
	s.mu.Unlock()
	if err := s.confirm(a.Durable, a.Serial); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		if err := s.listen(ctx, st); err != nil {
			cancel(err)
		}
	}()
	err = sh.run(ctx)
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		err = cause
	}
	cancel(nil)
	<-heard
	return err
}

// position finds the place in the spool where the receiver's journal ends, and
// makes sure that it is the same journal's.
func (s *Sender) position(a answer) (*journal.Follower, error) {
	end := s.cfg.Log.End()
	known := s.Durable()
	switch {
	case a.Durable.Serial > a.Serial:
		return nil, fmt.Errorf("%w: the receiver has batch %d, and says that %d is durable", ErrProtocol, a.Serial, a.Durable.Serial)
	case a.Serial < known.Serial:
		return nil, fmt.Errorf("%w: the receiver has batch %d, it had confirmed %d", ErrDiverged, a.Serial, known.Serial)
	case a.Epoch > end.Timeline.Epoch:
		return nil, fmt.Errorf("%w: the receiver is in epoch %d, the spool in %d", ErrRefused, a.Epoch, end.Timeline.Epoch)
	case a.Serial > end.Serial:
		return nil, fmt.Errorf("%w: the receiver has batch %d, the spool ends at %d", ErrDiverged, a.Serial, end.Serial)
	case a.Serial == end.Serial:
		if err := samePast(a, end.Timeline.Epoch, end.Last); err != nil {
			return nil, err
		}
	case a.Serial > 0:
		if err := s.compare(a); err != nil {
			return nil, err
		}
	}
	f, err := s.cfg.Log.Follow(a.Serial)
	if errors.Is(err, journal.ErrDropped) {
		return nil, fmt.Errorf("%w: %w", ErrDiverged, err)
	}
	return f, err
}

// compare looks at the batch that the receiver has last, if it is still there.
func (s *Sender) compare(a answer) error {
	f, err := s.cfg.Log.Follow(a.Serial - 1)
	if errors.Is(err, journal.ErrDropped) {
		return nil // the spool may begin right after it; Follow tells
	}
	if err != nil {
		return err
	}
	defer f.Close()
	b, ok, err := f.Next()
	if err != nil || !ok {
		return fmt.Errorf("read batch %d of the spool: %w", a.Serial, errors.Join(err, journal.ErrGap))
	}
	return samePast(a, b.Epoch, b.Last)
}

// samePast compares the ends of two journals that have the same serial there.
func samePast(a answer, epoch journal.Epoch, last journal.Seq) error {
	if a.Epoch != epoch || a.Last != last {
		return fmt.Errorf("%w: batch %d ends at epoch %d, seq %d there, at epoch %d, seq %d here", ErrDiverged, a.Serial, a.Epoch, a.Last, epoch, last)
	}
	return nil
}
