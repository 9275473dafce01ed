package keeper

import (
	"context"
	"sync"
)

// Link is a daemon's one connection to the tap keeper, made when a group needs
// it and again when it is lost. Who protects nothing has none.
type Link struct {
	cfg ClientConfig

	// dialing is held while a connection is made, so that there is one maker.
	dialing chan struct{}
	mu      struct {
		sync.Mutex
		client *Client
		err    error // of the last attempt
		closed bool
	}
}

// NewLink makes a link that is not connected yet.
func NewLink(cfg ClientConfig) *Link {
	return &Link{cfg: cfg, dialing: make(chan struct{}, 1)}
}

// Get returns a living connection, waiting for one until ctx ends.
func (k *Link) Get(ctx context.Context) (*Client, error) {
	select {
	case k.dialing <- struct{}{}:
		defer func() { <-k.dialing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if c := k.living(); c != nil {
		return c, nil
	}
	c, err := Ensure(ctx, k.cfg)
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
func (k *Link) watch(c *Client) {
	if err := Watch(context.Background(), c, WatchConfig{}); err != nil {
		k.cfg.Logger.Warn("connect to the tap keeper anew", "err", err)
		_ = c.Close() // a new connection finds out what is left of it
	}
}

// living is the present connection; one that has ended is put away.
func (k *Link) living() *Client {
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

// State is how the connection is; when there is none, err says why: nil if
// nobody has needed one yet.
func (k *Link) State() (connected bool, pid int, err error) {
	if c := k.living(); c != nil {
		return true, c.PID(), nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return false, 0, k.mu.err
}

// Close leaves the keeper and its taps alone.
func (k *Link) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.closed = true
	if k.mu.client == nil {
		return nil
	}
	return k.mu.client.Close()
}
