package protect

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rephub/rephub/internal/guest"
	"github.com/rephub/rephub/journal"
)

// Quiesce freezes the file systems of the guests of all VMs of the group, notes the
// last seq before that moment, and thaws them. They are frozen for as long as that
// takes, whatever the journal's disk or a hub elsewhere do: what is before the seq is
// on its way, and is a point once it is fenced and durable. The error is for people.
// At return no guest is frozen, or it is thawed as soon as its agent answers.
func (g *Group) Quiesce(ctx context.Context, patience time.Duration) (q Quiet, err error) {
	until := time.Now().Add(patience)
	bounded, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	if s := g.State(); s != StateProtected {
		return q, fmt.Errorf("the group is %s", s)
	}
	if g.deps.Freezer == nil {
		return q, errors.New("nobody here can freeze guests")
	}
	var targets []guest.Target
	for _, ref := range g.spec.VMs {
		address, err := g.guestAgent(bounded, ref)
		if err != nil {
			return q, fmt.Errorf("VM %s: %w", ref.Name, err)
		}
		targets = append(targets, guest.Target{VM: ref.Name, Address: address})
	}
	frozen, err := g.deps.Freezer.Freeze(ctx, targets, time.Until(until))
	if err != nil {
		return q, err
	}
	// What the guests wrote was answered before they said that they are frozen, and
	// has its seq since before that.
	s := g.Status()
	q = Quiet{Seq: s.Last, At: g.deps.Now()}
	began := time.Now()
	if err := frozen.Thaw(); err != nil {
		return q, err
	}
	g.logger.Info("guests were frozen for a moment", "seq", q.Seq, "thawed_after", time.Since(began))
	if s.State != StateProtected {
		return q, fmt.Errorf("the group was %s at that moment", s.State)
	}
	return q, nil
}

// guestAgent is where the agent of a VM's guest is reached.
func (g *Group) guestAgent(ctx context.Context, ref VMRef) (string, error) {
	v, err := g.deps.OpenVM(ctx, ref)
	if err != nil {
		return "", err
	}
	defer v.Close()
	return v.GuestAgent(ctx)
}

// pointPatience bounds how long a checkpoint waits for a seq to become a point.
const pointPatience = 30 * time.Second

// AwaitPoint returns when a seq is a durable point of a journal; every is how often
// it looks. It fails when it never will be one, or is not for long.
func AwaitPoint(ctx context.Context, log Journal, seq journal.Seq, every time.Duration) error {
	limit := time.NewTimer(pointPatience)
	defer limit.Stop()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		tl := log.DurableTimeline()
		if tl.IsPoint(seq) {
			return nil
		}
		live := log.Timeline()
		if newest, ok := tl.Newest(); ok && newest > seq || !live.Open {
			return errors.New("the group was not whole at that moment")
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return errors.New("what was written before that moment did not become a point in time")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
