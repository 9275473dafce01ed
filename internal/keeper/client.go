package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rephub/rephub/internal/tap"
	"github.com/rephub/rephub/journal"
)

// ClientConfig says where a keeper is and how to start one.
type ClientConfig struct {
	// Dir is the keeper's directory, an absolute path.
	Dir string
	// Exe and Args start the keeper, with "--dir DIR --detach" added; default: this executable with "keeper".
	Exe  string
	Args []string
	// Env is added to the environment of a started keeper.
	Env []string
	// Logger; default none.
	Logger *slog.Logger
}

// Client is a controller's connection to the keeper. There is one controller at a time: a newer one replaces an older. Its methods may
// be called concurrently.
//
// It holds a duplicate of every tap's descriptor, for CutOff. When the connection ends they are closed: so a tap ends for its VM, too, when
// the keeper dies.
type Client struct {
	cfg  ClientConfig
	log  *slog.Logger
	conn *net.UnixConn
	pid  int
	done chan struct{}
	wg   sync.WaitGroup

	writing sync.Mutex

	mu struct {
		sync.Mutex
		lastID  uint64
		pending map[uint64]chan reply
		taps    map[uint64]int // connection → descriptor
		rings   []*tap.Consumer
		err     error
	}
}

// reply is an answer with its descriptors, which its receiver owns.
type reply struct {
	message
	fds []int
}

// helloTimeout bounds how long a keeper may take to answer a new connection.
const helloTimeout = 2 * time.Second

// Dial connects to a running keeper as its controller.
func Dial(ctx context.Context, cfg ClientConfig) (*Client, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(cfg.Dir, controlName))
	if err != nil {
		return nil, fmt.Errorf("connect to keeper: %w", err)
	}
	c := &Client{cfg: cfg, log: cfg.Logger, conn: conn.(*net.UnixConn), done: make(chan struct{})}
	c.mu.pending = make(map[uint64]chan reply)
	c.mu.taps = make(map[uint64]int)
	cred, err := peerOf(c.conn)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect to keeper: %w", err)
	}
	c.pid = int(cred.Pid)
	hello := make(chan error, 1)
	c.wg.Go(func() { c.receive(hello) })
	ctx, cancel := context.WithTimeoutCause(ctx, helloTimeout, fmt.Errorf("%w: keeper (process %d) does not answer", ErrSilent, c.pid))
	defer cancel()
	select {
	case err = <-hello:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err == nil {
		_, err = c.call(ctx, request{Op: opClaim})
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("connect to keeper: %w", err)
	}
	return c, nil
}

// call sends a request and waits for its reply.
func (c *Client) call(ctx context.Context, r request) (reply, error) {
	ch, id, err := c.start(r)
	if err != nil {
		return reply{}, err
	}
	select {
	case m, ok := <-ch:
		if !ok {
			return reply{}, c.Err()
		}
		if err := m.failure(); err != nil {
			closeAll(m.fds)
			return reply{}, err
		}
		return m, nil
	case <-ctx.Done():
		c.forget(id)
		return reply{}, context.Cause(ctx)
	}
}

// start sends a request. The channel gets its reply, or is closed when the connection ends.
func (c *Client) start(r request) (<-chan reply, uint64, error) {
	ch := make(chan reply, 1)
	c.mu.Lock()
	if err := c.mu.err; err != nil {
		c.mu.Unlock()
		return nil, 0, err
	}
	c.mu.lastID++
	r.ID = c.mu.lastID
	c.mu.pending[r.ID] = ch
	c.mu.Unlock()

	line, err := json.Marshal(r)
	if err == nil && len(line) >= maxRequest {
		err = fmt.Errorf("%w: it has %d bytes", ErrBadRequest, len(line))
	}
	if err == nil {
		c.writing.Lock()
		c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err = c.conn.Write(append(line, '\n')); err != nil {
			c.conn.Close() // perhaps half a line is out
			err = fmt.Errorf("%w: %w", ErrGone, err)
		}
		c.writing.Unlock()
	}
	if err != nil {
		c.forget(r.ID)
		return nil, 0, err
	}
	return ch, r.ID, nil
}

// forget gives up waiting for a reply.
func (c *Client) forget(id uint64) {
	c.mu.Lock()
	ch := c.mu.pending[id]
	delete(c.mu.pending, id)
	c.mu.Unlock()
	select {
	case m := <-ch: // it came just now
		closeAll(m.fds)
	default:
	}
}

// OpenRing makes or reopens a group's ring; size (bytes) counts only when it is made. A new ring is void until Unvoid.
func (c *Client) OpenRing(ctx context.Context, group string, size int64) (cons *tap.Consumer, existed bool, err error) {
	m, err := c.call(ctx, request{Op: opOpen, Group: group, Size: size})
	if err != nil {
		return nil, false, fmt.Errorf("open ring of group %q: %w", group, err)
	}
	if len(m.fds) != 2 {
		closeAll(m.fds)
		return nil, false, fmt.Errorf("open ring of group %q: keeper sent %d descriptors", group, len(m.fds))
	}
	ring, err := tap.MapRing(m.fds[0], m.fds[1])
	if err == nil {
		cons, err = tap.NewConsumer(ring)
	}
	if err != nil {
		return nil, false, fmt.Errorf("open ring of group %q: %w", group, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.rings = append(c.mu.rings, cons)
	return cons, m.Existed, nil
}

// Offer makes a single-use token for each volume. An unused one that was out for the volume is no longer good.
func (c *Client) Offer(ctx context.Context, group string, volumes []Volume) ([]Offer, error) {
	m, err := c.call(ctx, request{Op: opOffer, Group: group, Offer: volumes})
	if err != nil {
		return nil, fmt.Errorf("offer taps of group %q: %w", group, err)
	}
	return m.Offers, nil
}

// Withdraw takes back unused tokens of the volumes, of all when none is named.
func (c *Client) Withdraw(ctx context.Context, group string, volumes ...journal.VolumeID) error {
	return c.order(ctx, "withdraw taps", request{Op: opWithdraw, Group: group, Volumes: volumes})
}

// Void makes the group's ring void and returns the last seq recorded.
func (c *Client) Void(ctx context.Context, group string) (cut journal.Seq, err error) {
	m, err := c.call(ctx, request{Op: opVoid, Group: group})
	if err != nil {
		return 0, fmt.Errorf("make ring of group %q void: %w", group, err)
	}
	return m.Cut, nil
}

// Detach is Void, and marks the connected taps of the volumes (of all when none is named) as about to be closed on purpose.
func (c *Client) Detach(ctx context.Context, group string, volumes ...journal.VolumeID) (cut journal.Seq, err error) {
	m, err := c.call(ctx, request{Op: opDetach, Group: group, Volumes: volumes})
	if err != nil {
		return 0, fmt.Errorf("detach taps of group %q: %w", group, err)
	}
	return m.Cut, nil
}

// Unvoid records again: in epoch, which must be new, and from seq first, which must lie above any assigned: the next write gets it.
// Everything recorded must have been released (tap.ErrBusy); see tap.ErrStale and tap.ErrNotVoid.
func (c *Client) Unvoid(ctx context.Context, group string, epoch journal.Epoch, first journal.Seq) error {
	return c.order(ctx, "record again", request{Op: opUnvoid, Group: group, Epoch: epoch, First: first})
}

// RenewRing gives the group's ring up, with what it holds, for a new, void one to be opened with OpenRing: for one that is tap.ErrCorrupt. Taps stay
// connected.
func (c *Client) RenewRing(ctx context.Context, group string) error {
	return c.order(ctx, "renew ring", request{Op: opRenew, Group: group})
}

// CloseRing gives up a group without a connected tap (tap.ErrBusy); what its ring holds is gone.
func (c *Client) CloseRing(ctx context.Context, group string) error {
	return c.order(ctx, "close ring", request{Op: opClose, Group: group})
}

// CloseFreedRing is CloseRing for a group whose VMs have let go of their taps: until the keeper has seen the last of them it tries again, at most
// until ctx ends.
func (c *Client) CloseFreedRing(ctx context.Context, group string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := c.CloseRing(ctx, group)
		if !errors.Is(err, tap.ErrBusy) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

func (c *Client) order(ctx context.Context, what string, r request) error {
	if _, err := c.call(ctx, r); err != nil {
		return fmt.Errorf("%s of group %q: %w", what, r.Group, err)
	}
	return nil
}

// Status asks the keeper how it is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	m, err := c.call(ctx, request{Op: opStatus})
	if err == nil && m.Status == nil {
		err = errors.New("keeper sent no status")
	}
	if err != nil {
		return Status{}, fmt.Errorf("ask keeper for its status: %w", err)
	}
	return *m.Status, nil
}

// Ping asks the keeper for a sign of life.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.call(ctx, request{Op: opPing})
	return err
}

// Taps counts the tap connections that CutOff would cut.
func (c *Client) Taps() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.mu.taps)
}

// CutOff shuts down every tap connection with no help from the keeper, and counts them: the very last resort, VMs lose their taps.
func (c *Client) CutOff() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, fd := range c.mu.taps {
		unix.Shutdown(fd, unix.SHUT_RDWR)
	}
	return len(c.mu.taps)
}

// TapTCP is the HOST:PORT on loopback that VMs connect to which may use no unix socket of ours. The keeper listens there from the first
// call on, for as long as it lives. Every user of the host can connect, as to the unix socket: the tokens are the secret.
func (c *Client) TapTCP(ctx context.Context) (string, error) {
	m, err := c.call(ctx, request{Op: opTCP})
	if err == nil && m.Address == "" {
		err = errors.New("keeper sent no address")
	}
	if err != nil {
		return "", fmt.Errorf("take taps over TCP: %w", err)
	}
	return m.Address, nil
}

// TapSocket is the path of the unix socket that VMs connect to.
func (c *Client) TapSocket() string { return filepath.Join(c.cfg.Dir, tapName) }

// PID is the keeper's process.
func (c *Client) PID() int { return c.pid }

// Done is closed when the connection is over; Err says why. Mapped rings stay readable, and their Wait returns once.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is why the connection is over, nil while it is not: ErrReplaced or ErrGone.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.err
}

// Close ends the connection. The keeper lives on. It may be called twice.
func (c *Client) Close() error {
	c.conn.Close()
	c.wg.Wait()
	return nil
}
