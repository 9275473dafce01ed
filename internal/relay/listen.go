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
		if err := st.await(ctx, st.news, func() bool {
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
	s.mu.Lock()
	known := s.mu.status.Durable
	switch {
	case a.Serial > sent || a.Seq > s.cfg.Log.Appended():
		s.mu.Unlock()
		return fmt.Errorf("%w: batch %d, seq %d is said to be durable, %d was sent", ErrProtocol, a.Serial, a.Seq, sent)
	case a.Serial < known.Serial || a.Seq < known.Seq:
		s.mu.Unlock()
		return fmt.Errorf("%w: batch %d, seq %d is said to be durable, it was %d, %d", ErrDiverged, a.Serial, a.Seq, known.Serial, known.Seq)
	}
	s.mu.status.Durable = a
	s.mu.Unlock()
	if a != known {
		s.cfg.Changed()
	}
	if err := s.cfg.Log.DropShipped(a.Serial); err != nil {
		s.cfg.Logger.Warn("drop shipped segments", "group", s.group, "err", err)
	}
	return nil
}
