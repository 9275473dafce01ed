package tap

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/rephub/rephub/journal"
	"github.com/rephub/rephub/nbd"
)

// Conn is a connected tap.
type Conn struct {
	ID     uint64 // never used again in this process
	Group  string
	Volume journal.VolumeID
}

// Watcher is told about connections, in the connection's goroutine: it must not block.
type Watcher interface {
	// TapConnected is called before the first request is answered. fd is a duplicate of the server's descriptor, for the
	// Watcher to close.
	TapConnected(c Conn, fd int)
	// TapEnded is called once for each TapConnected. lost: nobody had asked for it.
	TapEnded(c Conn, lost bool)
}

// Exports offers taps as NBD exports whose names are tokens. It implements nbd.Exports.
type Exports struct {
	watcher Watcher

	mu struct {
		sync.Mutex
		offers map[string]*offer
		conns  map[uint64]*live
		lastID uint64
	}
}

// offer is a token that nobody has used.
type offer struct {
	group    string
	producer *Producer
	volume   journal.VolumeID
	size     int64
}

// live is a connection.
type live struct {
	Conn
	detaching bool
}

// NewExports makes an empty set.
func NewExports(w Watcher) *Exports {
	e := &Exports{watcher: w}
	e.mu.offers = make(map[string]*offer)
	e.mu.conns = make(map[uint64]*live)
	return e
}

// Offer makes a token, good for one connection to the volume's tap. A token that was out for it is no longer good.
func (e *Exports) Offer(group string, p *Producer, vol journal.VolumeID, size int64) (token string, err error) {
	if vol == 0 || size <= 0 {
		return "", fmt.Errorf("offer volume %d of %d bytes: not a volume", vol, size)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := p.offered(vol, size); err != nil {
		return "", err
	}
	e.dropLocked(group, vol)
	token = rand.Text() // 130 bits
	e.mu.offers[token] = &offer{group: group, producer: p, volume: vol, size: size}
	return token, nil
}

// Withdraw makes the volumes' unused tokens no longer good, all of the group when none is named.
func (e *Exports) Withdraw(group string, volumes ...journal.VolumeID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, o := range e.dropLocked(group, volumes...) {
		o.producer.withdrawn(o.volume)
	}
}

func (e *Exports) dropLocked(group string, volumes ...journal.VolumeID) (dropped []*offer) {
	for token, o := range e.mu.offers {
		if o.group == group && named(volumes, o.volume) {
			delete(e.mu.offers, token)
			dropped = append(dropped, o)
		}
	}
	return dropped
}

// named tells whether v is among volumes, which name all when empty.
func named(volumes []journal.VolumeID, v journal.VolumeID) bool {
	for _, w := range volumes {
		if w == v {
			return true
		}
	}
	return len(volumes) == 0
}

// Detaching notes that the connections of the volumes, all of the group when none is named, are about to end on purpose.
func (e *Exports) Detaching(group string, volumes ...journal.VolumeID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.mu.conns {
		if c.Group == group && named(volumes, c.Volume) {
			c.detaching = true
		}
	}
}

// Connected counts the group's connections, all when group is "".
func (e *Exports) Connected(group string) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.mu.conns {
		if group == "" || c.Group == group {
			n++
		}
	}
	return n
}

// List refuses: tokens are secrets.
func (e *Exports) List(context.Context) ([]string, error) { return nil, nbd.ErrNotPermitted }

// Info describes a token's export and leaves it unused.
func (e *Exports) Info(_ context.Context, name string) (nbd.ExportInfo, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	o := e.mu.offers[name]
	if o == nil {
		return nbd.ExportInfo{}, nbd.ErrUnknownExport
	}
	return o.info(), nil
}

// info is what a tap promises. A minimum block above 1 would make QEMU read; a maximum bounds what a connection buffers.
func (o *offer) info() nbd.ExportInfo {
	return nbd.ExportInfo{
		Size:    o.size,
		CanTrim: true, CanZero: true, CanFastZero: true, CanFlush: true, CanFUA: true,
		MinBlock: 1, PreferredBlock: 4096, MaxBlock: 1 << 20,
	}
}

// Open uses a token up, for good, and begins a connection.
func (e *Exports) Open(_ context.Context, name string, conn nbd.ConnInfo) (nbd.Backend, nbd.ExportInfo, error) {
	e.mu.Lock()
	o := e.mu.offers[name]
	if o == nil {
		e.mu.Unlock()
		return nil, nbd.ExportInfo{}, nbd.ErrUnknownExport
	}
	delete(e.mu.offers, name)
	fd, err := duplicate(conn.Conn)
	if err != nil {
		o.producer.withdrawn(o.volume)
		e.mu.Unlock()
		return nil, nbd.ExportInfo{}, fmt.Errorf("open tap of volume %d: %w", o.volume, err)
	}
	e.mu.lastID++
	c := &live{Conn: Conn{ID: e.mu.lastID, Group: o.group, Volume: o.volume}}
	e.mu.conns[c.ID] = c
	o.producer.connected(o.volume)
	e.mu.Unlock()
	e.watcher.TapConnected(c.Conn, fd)
	return &backend{producer: o.producer, volume: o.volume, ended: func() { e.end(c, o, conn.Conn) }}, o.info(), nil
}

// end notes the end of a connection. Others hold duplicates of its descriptor: it is shut down, so that its peer hears of the end.
func (e *Exports) end(c *live, o *offer, nc net.Conn) {
	e.mu.Lock()
	delete(e.mu.conns, c.ID)
	lost := !c.detaching
	o.producer.disconnected(c.Volume, !lost)
	e.mu.Unlock()
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RDWR) })
		}
	}
	e.watcher.TapEnded(c.Conn, lost)
}

// duplicate makes a second descriptor of a connection.
func duplicate(nc net.Conn) (int, error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return -1, fmt.Errorf("duplicate %T: no descriptor", nc)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("duplicate connection: %w", err)
	}
	dup, dupErr := -1, error(nil)
	err = raw.Control(func(fd uintptr) { dup, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err == nil {
		err = dupErr
	}
	if err != nil {
		return -1, fmt.Errorf("duplicate connection: %w", err)
	}
	return dup, nil
}
