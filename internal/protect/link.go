package protect

import (
	"context"
	"errors"
	"fmt"
	gosync "sync"
	"sync/atomic"
	"time"

	"github.com/rephub/rephub/internal/keeper"
	"github.com/rephub/rephub/internal/tap"
	"github.com/rephub/rephub/journal"
)

// link is the group's ring at one keeper, and the goroutine that drains it into
// the journal. It lives as long as the connection to the keeper; VMs come and go
// meanwhile.
type link struct {
	g      *Group
	keeper *keeper.Client
	ring   *tap.Consumer

	users    gosync.WaitGroup // goroutines that use the ring besides the drainer
	settling gosync.Mutex     // held by the one of them that notes a fence or a detach

	stop    context.CancelFunc
	drained chan struct{} // closed when the drainer has ended
	err     error         // why it ended; read after drained
	stalled atomic.Pointer[stall]
	lost    atomic.Pointer[GapError]
	changed chan struct{} // a hint, of capacity 1: the ring's state changed
}

// stall says why nothing is journaled at the moment.
type stall struct{ err error }

// GapError: the journal does not have writes that the ring has given up, or that
// come before what it holds now, because the journal's disk lost them. What the
// journal cannot take is then left to a compare.
type GapError struct {
	Has, Ring journal.Seq // newest in the journal, and what the ring was or had given up to
}

func (e *GapError) Error() string {
	return fmt.Sprintf("the journal ends at seq %d and has lost writes up to %d; what was missed is found by comparing", e.Has, e.Ring)
}

// lose notes that the journal does not have all up to seq.
func (l *link) lose(seq journal.Seq) {
	gap := &GapError{Has: l.g.log.Appended(), Ring: seq}
	if l.lost.CompareAndSwap(nil, gap) {
		l.g.logger.Error("writes were lost by the journal's disk", "err", gap)
		hint(l.changed)
	}
}

// openLink opens the group's ring and begins to drain it.
func (g *Group) openLink(ctx context.Context, k *keeper.Client) (*link, error) {
	ring, _, err := k.OpenRing(ctx, g.spec.ID.String(), g.cfg.RingSize)
	if err != nil {
		return nil, fmt.Errorf("open the ring of group %s: %w", g.spec.Name, err)
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	l := &link{g: g, keeper: k, ring: ring, stop: stop, drained: make(chan struct{}), changed: make(chan struct{}, 1)}
	g.stream.begin(ring.Wake)
	if st := ring.State(); st.Consumed > g.log.Appended() {
		l.lose(st.Consumed)
	}
	g.status.setRing(ring.State)
	go func() {
		defer close(l.drained)
		l.err = ring.Drain(run, tap.DrainConfig{Tick: g.cfg.Gather, Changed: func() { hint(l.changed) }}, func(r tap.Run) error { return l.sink(run, r) })
		g.stream.end(fmt.Errorf("the ring is not drained any more: %w", l.err))
	}()
	return l, nil
}

// close ends the drainer; with finish it first lets it take what a dead keeper left in the ring.
func (l *link) close(finish bool) {
	if finish {
		ctx, cancel := context.WithTimeout(context.Background(), 10*l.g.cfg.MonitorTimeout)
		if err := l.drainTo(ctx, l.ring.State().Last); err != nil {
			l.g.logger.Warn("the lost keeper's ring was not drained to its end", "err", err)
		}
		cancel()
	}
	l.stop()
	<-l.drained
	l.users.Wait()
	l.g.status.setRing(nil)
	if err := l.ring.Close(); err != nil {
		l.g.logger.Warn("close the ring", "err", err)
	}
}

// unhung does something with the journal's disk, and does not wait for it any more
// when ctx ends: the disk may hang.
func (l *link) unhung(ctx context.Context, work func() error) error {
	done := make(chan error, 1)
	l.users.Go(func() { done <- work() })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// drainTo returns when the journal has everything up to seq that is whole in the
// ring. A producer that died may have left an entry half written.
func (l *link) drainTo(ctx context.Context, seq journal.Seq) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-l.drained:
			cancel()
		case <-ctx.Done():
		}
	}()
	select {
	case <-l.keeper.Done():
		return l.drainDead(ctx)
	default:
		l.ring.Wake() // it may be gathering
		return l.g.stream.waitAppended(ctx, seq)
	}
}

// emptied returns when everything that the ring held at the call, up to seq, is
// out of it: in the journal, or known to be lost.
func (l *link) emptied(ctx context.Context, seq journal.Seq) error {
	mark := l.ring.Mark()
	l.ring.Wake()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !l.ring.Passed(mark) {
		select {
		case <-tick.C:
		case <-l.drained:
			return fmt.Errorf("the ring is not drained any more: %w", l.err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if l.g.log.Appended() < seq {
		l.lose(seq)
	}
	return nil
}

// drainDead waits until no more moves: nobody writes to this ring any more.
func (l *link) drainDead(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	still, last := 0, l.g.log.Appended()
	for still < 3 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if now := l.g.log.Appended(); now != last || l.stalled.Load() != nil {
			still, last = 0, now
			continue
		}
		still++
	}
	return nil
}

// sink appends one run to the journal. While the disk does not take it, it tries
// again and again: the ring fills, goes void, and the VM notices nothing. What it
// can never take is dropped: no fence goes beyond it, and a compare finds it.
func (l *link) sink(ctx context.Context, run tap.Run) error {
	regions, first, err := unseen(run, l.g.log.Appended())
	if err != nil || regions == nil {
		return err
	}
	batch := journal.Batch{Kind: journal.KindWrites, Epoch: run.Epoch, First: first, Regions: regions}
	defer l.stalled.Store(nil)
	for {
		err := l.g.checkSpace()
		if err == nil {
			err = l.g.stream.appendWrites(batch)
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, journal.ErrGap), errors.Is(err, journal.ErrFenced):
			l.lose(run.Last)
			return nil
		case errors.Is(err, journal.ErrInvalid), errors.Is(err, journal.ErrClosed):
			return fmt.Errorf("journal seq %d to %d: %w", first, run.Last, err)
		}
		if l.stalled.Swap(&stall{err}) == nil {
			l.g.logger.Warn("the journal does not take writes", "seq", first, "err", err)
			hint(l.changed)
		}
		if !sleep(ctx, l.g.cfg.Retry/4) {
			return context.Cause(ctx)
		}
	}
}

// unseen is what of a run the journal does not have: a hub that was killed after
// the append and before the release finds entries in the ring again. Nil when
// it has all.
func unseen(run tap.Run, appended journal.Seq) ([][]byte, journal.Seq, error) {
	if run.Last <= appended {
		return nil, 0, nil
	}
	regions := run.Regions[:]
	first := run.First
	for first <= appended {
		if len(regions[0]) == 0 {
			regions = regions[1:]
		}
		h, err := journal.DecodeHeader(regions[0])
		if err != nil {
			return nil, 0, fmt.Errorf("skip seq %d in the ring: %w", first, err)
		}
		regions = append([][]byte{regions[0][h.Size():]}, regions[1:]...)
		first = h.Seq + 1
	}
	out := make([][]byte, 0, 2)
	for _, r := range regions {
		if len(r) > 0 {
			out = append(out, r)
		}
	}
	return out, first, nil
}
