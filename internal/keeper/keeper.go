// Package keeper is the small process between a host's VMs and everything that may fail: it owns the taps, answers them from
// memory, and outlives hub and agent.
//
// Run is the process, Client the way in for its one controller (hub or agent), Ensure starts one when there is none, and Watch is
// the last resort against one that hangs.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rephub/rephub/internal/tap"
	"github.com/rephub/rephub/nbd"
)

// Names in a keeper's directory.
const (
	controlName = "control.sock"
	tapName     = "tap.sock"
	lockName    = "keeper.lock"
	logName     = "keeper.log"
)

// Config is a keeper's configuration. Zero fields are the defaults named here.
type Config struct {
	// Dir holds the sockets, the lock and the log; it is made if missing.
	Dir string
	// Memory bounds the ring memory of all groups together, in bytes; default 1 GiB. A ring that finds none left goes void.
	Memory int64
	// VoidAfter is how long writes may wait for a full ring, in all, before it goes void; default 20 ms. Waiting is paid back at 2 % of the time that passes.
	VoidAfter time.Duration
	// Grace is how long the keeper lives on without a tap and without a controller; default 3 s.
	Grace time.Duration
	// Linger is Grace for as long as a ring holds entries that nobody has taken; default 60 s.
	Linger time.Duration
	// Trim is how often rings are looked over for memory to give back; default 1 s.
	Trim time.Duration
	// Thaw is how long the process may be stopped by a signal until the kernel lets it go on; default 100 ms, negative: for ever. Only Main heeds it.
	Thaw time.Duration
	// Logger must not block. Default none.
	Logger *slog.Logger
	// Ready, if set, is called when the sockets can be connected to.
	Ready func()
}

// EnsureDefaults fills zero fields.
func (c *Config) EnsureDefaults() {
	fill := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	fill(&c.VoidAfter, 20*time.Millisecond)
	fill(&c.Grace, 3*time.Second)
	fill(&c.Linger, time.Minute)
	fill(&c.Trim, time.Second)
	fill(&c.Thaw, 100*time.Millisecond)
	if c.Memory == 0 {
		c.Memory = 1 << 30
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Ready == nil {
		c.Ready = func() {}
	}
}

// Validate reports contradictions.
func (c *Config) Validate() error {
	switch {
	case c.Dir == "":
		return errors.New("keeper: no directory")
	case c.Memory < 0 || c.VoidAfter < 0 || c.Grace < 0 || c.Linger < 0 || c.Trim < 0:
		return errors.New("keeper: negative limit")
	}
	return nil
}

// ErrRunning: another keeper holds the directory.
var ErrRunning = errors.New("another keeper runs in this directory")

// keeper is the process's state.
type keeper struct {
	cfg     Config
	log     *slog.Logger
	memory  *tap.Memory
	exports *tap.Exports

	// orders is held shared while a controller's order is carried out, so that a claim comes before or after it. It comes before every
	// other lock.
	orders sync.RWMutex

	// mu is never held over I/O or a ring's lock: taps take it when they connect and end.
	mu struct {
		sync.Mutex
		rings      map[string]*group
		taps       map[uint64]tapConn
		sessions   map[*session]struct{}
		controller *session
		claims     uint64
		ending     bool
		idleSince  time.Time
		tcp        string             // where taps are taken over TCP; "" if they are not
		serveTaps  func(net.Listener) // until the keeper ends
	}
}

// group is a ring and its producer. op is held by control operations on it.
type group struct {
	op       sync.Mutex
	name     string
	ring     *tap.Ring
	given    []*tap.Ring // given up, and mapped for as long as taps may write
	producer *tap.Producer
	closed   bool // guarded by op
}

// tapConn is a connected tap and a duplicate of its descriptor.
type tapConn struct {
	tap.Conn
	fd int
}

func newKeeper(cfg Config) *keeper {
	k := &keeper{cfg: cfg, log: cfg.Logger, memory: tap.NewMemory(cfg.Memory)}
	k.exports = tap.NewExports(k)
	k.mu.rings = make(map[string]*group)
	k.mu.taps = make(map[uint64]tapConn)
	k.mu.sessions = make(map[*session]struct{})
	k.mu.idleSince = time.Now()
	return k
}

// Run is the keeper: it serves until nobody needs it any more, which is no error, or ctx ends.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	cfg.EnsureDefaults()
	k := newKeeper(cfg)

	// Tap sockets may be used by any user's QEMU (tokens are the secret), the control socket by its owner.
	if err := os.MkdirAll(cfg.Dir, 0o711); err != nil {
		return fmt.Errorf("make keeper directory: %w", err)
	}
	lock, err := takeLock(ctx, filepath.Join(cfg.Dir, lockName))
	if err != nil {
		return err
	}
	defer lock.Close()
	control, err := listen(filepath.Join(cfg.Dir, controlName), 0o600)
	if err != nil {
		return err
	}
	defer control.Close() // removes the socket, under the lock
	taps, err := listen(filepath.Join(cfg.Dir, tapName), 0o666)
	if err != nil {
		return err
	}
	defer taps.Close()
	return k.serve(ctx, control, taps)
}

// serve runs until the keeper is not needed, ctx ends, or a listener breaks.
func (k *keeper) serve(ctx context.Context, control, taps *net.UnixListener) error {
	server, err := nbd.NewServer(k.exports, nbd.ServerConfig{MemoryBudget: 64 << 20, Logger: k.log})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.Serve(ctx, taps); err != nil && ctx.Err() == nil {
			cancel(fmt.Errorf("serve taps: %w", err))
		}
	})
	k.mu.Lock()
	k.mu.serveTaps = func(l net.Listener) {
		wg.Go(func() {
			if err := server.Serve(ctx, l); err != nil && ctx.Err() == nil {
				k.log.Error("no more taps are taken over TCP", "err", err) // those that there are go on
			}
		})
	}
	k.mu.Unlock()
	wg.Go(func() {
		if err := k.serveControl(ctx, control); err != nil && ctx.Err() == nil {
			cancel(fmt.Errorf("serve control socket: %w", err))
		}
	})
	k.log.Info("keeper is ready", "pid", os.Getpid(), "dir", k.cfg.Dir)
	k.cfg.Ready()
	err = k.housekeep(ctx)
	cancel(err)
	server.Close()
	wg.Wait()
	k.closeAll()
	k.log.Info("keeper ends", "err", err)
	if errors.Is(err, errUnneeded) {
		return nil
	}
	return err
}

// listenTCP takes taps on loopback, too, from the first call on.
func (k *keeper) listenTCP() (address string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mu.tcp == "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", fmt.Errorf("listen on loopback: %w", err)
		}
		k.mu.tcp = l.Addr().String()
		k.mu.serveTaps(l)
		k.log.Info("taps are taken over TCP, too", "address", k.mu.tcp)
	}
	return k.mu.tcp, nil
}

var errUnneeded = errors.New("no tap and no controller")

// housekeep gives memory back and finds out when the keeper is not needed any more.
func (k *keeper) housekeep(ctx context.Context) error {
	tick := time.NewTicker(k.cfg.Trim)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		used := int64(0)
		for _, g := range k.groups() {
			g.op.Lock()
			if !g.closed {
				if err := g.producer.Trim(); err != nil {
					k.log.Warn("give ring memory back", "group", g.name, "err", err)
				}
				used += g.ring.State().Used
			}
			g.op.Unlock()
		}
		if k.unneeded(used) {
			return errUnneeded
		}
	}
}

// unneeded decides, once and for all, that the keeper ends.
func (k *keeper) unneeded(used int64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.mu.sessions) > 0 || len(k.mu.taps) > 0 {
		k.mu.idleSince = time.Now()
		return false
	}
	wait := k.cfg.Grace
	if used > 0 {
		wait = max(wait, k.cfg.Linger)
	}
	if k.mu.claims == 0 {
		wait = max(wait, startTimeout) // whoever started it is on the way
	}
	k.mu.ending = time.Since(k.mu.idleSince) >= wait
	return k.mu.ending
}

func (k *keeper) groups() (all []*group) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, g := range k.mu.rings {
		all = append(all, g)
	}
	return all
}

// closeAll releases the rings, when no connection is left.
func (k *keeper) closeAll() {
	for _, g := range k.groups() {
		g.close()
	}
}

// release closes producer and rings. Callers hold op; no tap is connected.
func (g *group) release() error {
	g.closed = true
	g.producer.Close()
	err := g.ring.Close()
	for _, r := range g.given {
		err = errors.Join(err, r.Close())
	}
	return err
}

// close releases the ring.
func (g *group) close() {
	g.op.Lock()
	defer g.op.Unlock()
	if !g.closed {
		g.release()
	}
}

// TapConnected implements tap.Watcher.
func (k *keeper) TapConnected(c tap.Conn, fd int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.taps[c.ID] = tapConn{c, fd}
	if k.mu.controller != nil {
		k.mu.controller.tellTap(tapConn{c, fd})
	}
	k.log.Info("tap connected", "group", c.Group, "volume", c.Volume)
}

// TapEnded implements tap.Watcher.
func (k *keeper) TapEnded(c tap.Conn, lost bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if t, ok := k.mu.taps[c.ID]; ok {
		unix.Close(t.fd)
		delete(k.mu.taps, c.ID)
	}
	k.mu.idleSince = time.Now()
	if k.mu.controller != nil {
		k.mu.controller.send(message{Event: eventTapGone, Conn: c.ID, Group: c.Group, Volume: c.Volume})
	}
	k.log.Info("tap ended", "group", c.Group, "volume", c.Volume, "lost", lost)
}

// takeLock locks the directory against other keepers. One that is just ending is waited for.
func takeLock(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open keeper lock: %w", err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(2 * time.Second); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if time.Now().After(deadline) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, ErrRunning)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// listen makes a unix socket; the caller holds the directory's lock, so an old one is nobody's.
func listen(path string, mode os.FileMode) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, mode); err != nil {
		l.Close()
		return nil, fmt.Errorf("set mode of socket: %w", err)
	}
	return l, nil
}
