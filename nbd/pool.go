package nbd

import (
	"context"
	"errors"
	"fmt"
)

// Pool is several connections to one export, used as one. There is more than one only if the server says that a flush on one
// covers the writes of all (NBD_FLAG_CAN_MULTI_CONN). It does not connect again: what was written and not flushed may be lost with
// a server, and a flush on a new connection must not hide that.
type Pool struct {
	clients []*Client
}

// DialPool connects up to n times. Every connection must see the same export.
func DialPool(ctx context.Context, uri string, n int, opts DialOptions) (*Pool, error) {
	p := &Pool{}
	for i := range max(n, 1) {
		c, err := Dial(ctx, uri, opts)
		if err != nil {
			return nil, errors.Join(err, p.Close())
		}
		p.clients = append(p.clients, c)
		if a, b := p.clients[0].Info(), c.Info(); a.Size != b.Size || a.Flags != b.Flags {
			return nil, errors.Join(fmt.Errorf("connect to %s: connection %d has another size or other flags", uri, i), p.Close())
		}
		if c.Info().Flags&CanMultiConn == 0 {
			break
		}
	}
	return p, nil
}

// pick returns the live connection with the fewest requests, or a dead one if all are.
func (p *Pool) pick() *Client {
	best := p.clients[0]
	for _, c := range p.clients[1:] {
		switch alive := c.Err() == nil; {
		case !alive:
		case best.Err() != nil, c.waiting.Load() < best.waiting.Load():
			best = c
		}
	}
	return best
}

// Len is the number of connections.
func (p *Pool) Len() int { return len(p.clients) }

// Info is what the server said about the export.
func (p *Pool) Info() RemoteInfo { return p.clients[0].Info() }

// ReadAt is Client.ReadAt on some connection, as are the methods below.
func (p *Pool) ReadAt(ctx context.Context, b []byte, off int64) error {
	return p.pick().ReadAt(ctx, b, off)
}

// WriteAt is Client.WriteAt.
func (p *Pool) WriteAt(ctx context.Context, b []byte, off int64, f CommandFlags) error {
	return p.pick().WriteAt(ctx, b, off, f)
}

// Zero is Client.Zero.
func (p *Pool) Zero(ctx context.Context, off, n int64, f CommandFlags) error {
	return p.pick().Zero(ctx, off, n, f)
}

// Trim is Client.Trim.
func (p *Pool) Trim(ctx context.Context, off, n int64, f CommandFlags) error {
	return p.pick().Trim(ctx, off, n, f)
}

// Flush makes durable every write of the pool that has returned before.
func (p *Pool) Flush(ctx context.Context) error { return p.pick().Flush(ctx) }

// Cache is Client.Cache.
func (p *Pool) Cache(ctx context.Context, off, n int64) error { return p.pick().Cache(ctx, off, n) }

// BlockStatus is Client.BlockStatus.
func (p *Pool) BlockStatus(ctx context.Context, name string, off, n int64) ([]Extent, error) {
	return p.pick().BlockStatus(ctx, name, off, n)
}

// VisitStatus is Client.VisitStatus.
func (p *Pool) VisitStatus(ctx context.Context, name string, off, n int64, visit func(Extent) bool) error {
	return p.pick().VisitStatus(ctx, name, off, n, visit)
}

// Close closes every connection. It may be called twice.
func (p *Pool) Close() error {
	var errs []error
	for _, c := range p.clients {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
