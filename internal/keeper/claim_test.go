package keeper

import (
	"errors"
	"testing"

	"github.com/rephub/rephub/internal/tap"
)

// TestClaimWaitsForOrders: once a controller knows that it is the one, nothing that the one before it has ordered happens any more.
func TestClaimWaitsForOrders(t *testing.T) {
	cfg := Config{Dir: t.TempDir()}
	cfg.EnsureDefaults()
	k := newKeeper(cfg)
	t.Cleanup(k.closeAll)
	old, next := &session{k: k, wake: make(chan struct{}, 1)}, &session{k: k, wake: make(chan struct{}, 1)}
	order := func(s *session, r request) error {
		r.Group = "g"
		_, fds, err := k.obey(s, r)
		closeAll(fds)
		return err
	}
	k.claim(old, 1)
	if err := errors.Join(order(old, request{Op: opOpen, Size: tap.MinRing}), order(old, request{Op: opUnvoid, Epoch: 1, First: 1})); err != nil {
		t.Fatal(err)
	}
	g := k.groups()[0]
	g.op.Lock() // the order is held up after it was found to come from the controller
	ordered, claimed := make(chan error, 1), make(chan bool, 1)
	go func() { ordered <- order(old, request{Op: opVoid}) }()
	until(t, "the order is under way", func() bool {
		free := k.orders.TryLock()
		if free {
			k.orders.Unlock()
		}
		return !free
	})
	go func() {
		k.claim(next, 2)
		claimed <- g.ring.State().Void
	}()
	until(t, "the claim waits, or is through", func() bool {
		free := k.orders.TryRLock()
		if free {
			k.orders.RUnlock()
		}
		return !free || len(claimed) > 0
	})
	g.op.Unlock()
	if err := <-ordered; err != nil {
		t.Fatal(err)
	}
	if !<-claimed {
		t.Error("the ring went void by the old controller's order after the new one had taken over")
	}
	if err := order(old, request{Op: opVoid}); !errors.Is(err, ErrReplaced) {
		t.Errorf("an order of the old controller: %v", err)
	}
}
