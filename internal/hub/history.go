package hub

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/journal"
)

// oldestPatience bounds how long a status waits for the disk; what was not
// found by then is there for a later status.
const oldestPatience = 50 * time.Millisecond

// oldestPoint remembers the time of the oldest point, which only the journal's
// files tell.
type oldestPoint struct {
	timeOf  func(journal.Seq) (time.Time, error)
	looking sync.WaitGroup

	mu struct {
		sync.Mutex
		seq    journal.Seq // that at is of, or that is being looked for
		at     time.Time   // zero: not known
		looked chan struct{}
		closed bool
	}
}

// time is the time of the oldest point; zero when it is not known yet.
func (o *oldestPoint) time(seq journal.Seq) time.Time {
	looked := o.look(seq)
	t := time.NewTimer(oldestPatience)
	defer t.Stop()
	select {
	case <-looked:
	case <-t.C:
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mu.seq != seq {
		return time.Time{}
	}
	return o.mu.at
}

// look has somebody look for a point's time, one at a time; the channel is
// closed when that has ended.
func (o *oldestPoint) look(seq journal.Seq) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if looked := o.mu.looked; looked != nil {
		select {
		case <-looked:
		default:
			return looked // of whatever point: one reader of a slow disk is enough
		}
		if o.mu.seq == seq && !o.mu.at.IsZero() || o.mu.closed {
			return looked
		}
	}
	looked := make(chan struct{})
	o.mu.looked, o.mu.seq, o.mu.at = looked, seq, time.Time{}
	if o.mu.closed {
		close(looked)
		return looked
	}
	o.looking.Go(func() {
		defer close(looked)
		at, err := o.timeOf(seq)
		if err != nil {
			return // dropped just now, or damaged: the next status asks again
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		o.mu.at = at
	})
	return looked
}

// close waits until nobody reads the journal.
func (o *oldestPoint) close() {
	o.mu.Lock()
	o.mu.closed = true
	o.mu.Unlock()
	o.looking.Wait()
}

// cutting is how the last cut of a history went.
type cutting struct {
	held journal.Seq // the point that nothing older than may go; 0 without one
	err  error
}

// explain adds to a status why the history is longer than what was asked for.
func (h *Hub) explain(ctx context.Context, e *entry, st *api.GroupStatus) {
	cut := e.lastCut()
	if cut.err != nil {
		st.HistoryNote = fmt.Sprintf("the history cannot be cut and grows: %v", cut.err)
		return
	}
	if cut.held == 0 {
		return
	}
	if who := h.holder(ctx, e, cut.held); who != "" {
		st.HeldSeq = uint64(cut.held)
		st.HistoryNote = "the history is longer than asked, because it is kept from " + who
	}
}

// holder says who keeps a point, and how to let it go; "" when nobody does any more.
func (h *Hub) holder(ctx context.Context, e *entry, at journal.Seq) string {
	name, id := e.record().Name, e.record().ID
	if all, err := e.current().Checkpoints(ctx); err == nil {
		for _, c := range all {
			if c.Seq == uint64(at) {
				return fmt.Sprintf("checkpoint %s on (rephub checkpoint remove %s %s lets it go)", c.Name, name, c.Name)
			}
		}
	}
	for _, m := range h.mounts.List() {
		if m.GroupID == id && m.Seq == at {
			return fmt.Sprintf("mount %s on (rephub unmount %s lets it go)", m.ID, m.ID)
		}
	}
	for _, t := range h.tasks.list().Tasks {
		if t.Group == name && t.Kind == "export" && !t.Finished() {
			return fmt.Sprintf("seq %d on by an export, until it ends", at)
		}
	}
	return ""
}
