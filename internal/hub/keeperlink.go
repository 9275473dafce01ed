package hub

import (
	"context"
	"sync"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/keeper"
)

// keeperLink is the hub's one connection to the tap keeper, made when a group
// needs it and again when it is lost. A hub that protects nothing has none.
type keeperLink struct {
	cfg keeper.ClientConfig

	// dialing is held while a connection is made, so that there is one maker.
	dialing chan struct{}
	mu      struct {
		sync.Mutex
		client *keeper.Client
		err    error // of the last attempt
		closed bool
	}
}

func newKeeperLink(cfg keeper.ClientConfig) *keeperLink {
	return &keeperLink{cfg: cfg, dialing: make(chan struct{}, 1)}
}

// get returns a living connection, waiting for one until ctx ends.
func (k *keeperLink) get(ctx context.Context) (*keeper.Client, error) {
	select {
	case k.dialing <- struct{}{}:
		defer func() { <-k.dialing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if c := k.living(); c != nil {
		return c, nil
	}
	c, err := keeper.Ensure(ctx, k.cfg)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.err = err
	if err != nil {
		return nil, err
	}
	if k.mu.closed {
		_ = c.Close() // nobody wants it any more
		return nil, context.Canceled
	}
	k.mu.client = c
	go k.watch(c)
	return c, nil
}

// watch frees the VMs of a keeper that hangs, for as long as the connection lives.
func (k *keeperLink) watch(c *keeper.Client) {
	if err := keeper.Watch(context.Background(), c, keeper.WatchConfig{}); err != nil {
		k.cfg.Logger.Error("the tap keeper hung, its taps were cut off", "err", err)
		_ = c.Close() // a new connection finds out what is left of it
	}
}

// living is the present connection; one that has ended is put away.
func (k *keeperLink) living() *keeper.Client {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mu.client == nil {
		return nil
	}
	select {
	case <-k.mu.client.Done():
		_ = k.mu.client.Close() // it has ended already
		k.mu.client = nil
	default:
	}
	return k.mu.client
}

func (k *keeperLink) status() api.KeeperStatus {
	if c := k.living(); c != nil {
		return api.KeeperStatus{Connected: true, PID: c.PID()}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	st := api.KeeperStatus{Reason: "not needed yet"}
	if k.mu.err != nil {
		st.Reason = k.mu.err.Error()
	}
	return st
}

// close leaves the keeper and its taps alone.
func (k *keeperLink) close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.closed = true
	if k.mu.client == nil {
		return nil
	}
	return k.mu.client.Close()
}
