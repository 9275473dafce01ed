package relay

import (
	"context"
	"fmt"

	"github.com/rephub/rephub/journal"
)

// listen takes the receiver's acks and complaints, as many as it can at once.
func (s *Sender) listen(ctx context.Context, st *stream) error {
	var seen Ack
	var told string
	for {
		var ack Ack
		var stalled string
		if err := st.await(ctx, st.came, func() bool {
			ack, stalled = st.acked, st.stalled
			return ack != seen || stalled != told
		}); err != nil {
			return err
		}
		if stalled != told {
			s.complain(stalled)
		}
		if ack != seen {
			if err := s.confirm(ack, s.Status().Sent); err != nil {
				return err
			}
		}
		seen, told = ack, stalled
	}
}

func (s *Sender) complain(stalled string) {
	if stalled != "" {
		s.cfg.Logger.Warn("receiver takes nothing", "group", s.group, "reason", stalled)
	} else {
		s.cfg.Logger.Info("receiver takes data again", "group", s.group)
	}
	s.mu.Lock()
	s.mu.status.Stalled = stalled
	s.mu.Unlock()
	s.cfg.Changed()
}

// confirm notes what is durable at the receiver, which has at most the batches
// up to sent, and lets the spool's segments go that hold nothing else. That
// costs next to nothing when there is none.
func (s *Sender) confirm(a Ack, sent journal.Serial) error {
	known := s.Durable()
	if err := s.check(a, known, sent); err != nil {
		return err
	}
	s.mu.Lock()
	s.mu.status.Durable = a
	if s.mu.progress != nil && a.Serial > known.Serial {
		close(s.mu.progress)
		s.mu.progress = nil
	}
	s.mu.Unlock()
	if err := s.cfg.Log.DropShipped(a.Serial); err != nil {
		s.cfg.Logger.Warn("drop shipped segments", "group", s.group, "err", err)
	}
	if a != known { // told last, when the room is there that the ack has made
		s.cfg.Changed()
	}
	return nil
}

// check holds an ack to what can be true.
func (s *Sender) check(a, known Ack, sent journal.Serial) error {
	end := s.cfg.Log.End()
	switch {
	case a.Epoch > end.Timeline.Epoch:
		return fmt.Errorf("%w: the receiver is in epoch %d, the spool in %d", ErrRefused, a.Epoch, end.Timeline.Epoch)
	case a.Serial > sent || max(a.Seq, a.Point, a.Fence) > end.Last:
		return fmt.Errorf("%w: %+v is said to be durable, batch %d was sent, the spool ends at seq %d", ErrProtocol, a, sent, end.Last)
	case a.Serial < known.Serial || a.Seq < known.Seq || a.Epoch < known.Epoch:
		return fmt.Errorf("%w: %+v is said to be durable, it was %+v", ErrDiverged, a, known)
	}
	return nil
}

// Wait returns when the receiver has confirmed the batch, over however many
// connections, and the Status says so; or with ctx's error.
func (s *Sender) Wait(ctx context.Context, serial journal.Serial) error {
	for {
		s.mu.Lock()
		if s.mu.status.Durable.Serial >= serial {
			s.mu.Unlock()
			return nil
		}
		if s.mu.progress == nil {
			s.mu.progress = make(chan struct{})
		}
		progress := s.mu.progress
		s.mu.Unlock()
		select {
		case <-progress:
		case <-ctx.Done():
			return fmt.Errorf("wait for batch %d at the receiver: %w", serial, ctx.Err())
		}
	}
}
