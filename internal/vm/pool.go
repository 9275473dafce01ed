package vm

import (
	"context"
	"errors"
	"sync"
)

// Pool shares one monitor connection per VM among all who talk to it, because
// a QMP socket serves one client at a time.
type Pool struct {
	open func(ctx context.Context, qmp string) (VM, error)

	mu struct {
		sync.Mutex
		byPath map[string]*pooledVM
	}
}

// pooledVM is a connection that is being made or used.
type pooledVM struct {
	ready chan struct{} // closed when vm and err are set
	vm    VM
	err   error
	users int // guarded by the pool's lock
}

// leasedVM is one user's share.
type leasedVM struct {
	VM
	close func() error
}

// Close ends this user's share; it may be called twice.
func (l *leasedVM) Close() error { return l.close() }

// NewPool makes an empty pool; open connects to the VM at a QMP address.
func NewPool(open func(ctx context.Context, qmp string) (VM, error)) *Pool {
	p := &Pool{open: open}
	p.mu.byPath = map[string]*pooledVM{}
	return p
}

// Get gives a share of the connection to the VM at a QMP socket. Close it.
func (p *Pool) Get(ctx context.Context, qmp string) (VM, error) {
	for {
		c, first := p.join(qmp)
		if first {
			c.vm, c.err = p.open(ctx, qmp)
			close(c.ready)
		}
		select {
		case <-c.ready:
		case <-ctx.Done():
			return nil, p.leave(qmp, c, ctx.Err())
		}
		if c.err != nil {
			err := p.leave(qmp, c, c.err)
			if !first && ctx.Err() == nil && isContext(c.err) {
				continue // whoever made the connection gave up, we have not
			}
			return nil, err
		}
		var once sync.Once
		return &leasedVM{VM: c.vm, close: func() (err error) {
			once.Do(func() { err = p.leave(qmp, c, nil) })
			return err
		}}, nil
	}
}

// join makes the caller a user of the connection; the first one has to make it.
func (p *Pool) join(qmp string) (c *pooledVM, first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c = p.mu.byPath[qmp]; c != nil && c.usable() {
		c.users++
		return c, false
	}
	c = &pooledVM{ready: make(chan struct{}), users: 1}
	p.mu.byPath[qmp] = c
	return c, true
}

// usable is false once the connection has failed or ended.
func (c *pooledVM) usable() bool {
	select {
	case <-c.ready:
	default:
		return true // being made
	}
	if c.err != nil {
		return false
	}
	select {
	case <-c.vm.Done():
		return false
	default:
		return true
	}
}

// leave ends a share; with the last one the connection is closed. It returns err.
func (p *Pool) leave(qmp string, c *pooledVM, err error) error {
	p.mu.Lock()
	c.users--
	last := c.users == 0
	if last && p.mu.byPath[qmp] == c {
		delete(p.mu.byPath, qmp)
	}
	p.mu.Unlock()
	if !last {
		return err
	}
	select {
	case <-c.ready:
	default:
		return err // only its maker can be waiting, and it is the last user
	}
	if c.vm != nil {
		if cerr := c.vm.Close(); err == nil {
			err = cerr
		}
	}
	return err
}

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
