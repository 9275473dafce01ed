package rig

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy is a network between two machines: it carries TCP connections, in order
// and whole, and can be slow, silent or broken. All methods may be called
// concurrently.
type Proxy struct {
	listen   net.Listener
	dial     func(context.Context) (net.Conn, error)
	up, down lane // towards the one that is dialled, and back
	wg       sync.WaitGroup
	ctx      context.Context
	cancel   context.CancelFunc

	mu struct {
		sync.Mutex
		weather Weather
		changed chan struct{} // closed and replaced with weather
		links   map[*link]struct{}
	}
}

// Weather is what a Proxy does to connections. The zero value carries all.
type Weather struct {
	Delay time.Duration // of each byte, each way
	Rate  float64       // bytes per second each way, of all connections together; 0: no limit
	How   Outage
}

// Outage is how a Proxy does not carry.
type Outage int

// The outages. After Swallow the connections that it met stay silent for ever,
// as nobody has their bytes any more; after Hold they go on.
const (
	Open    Outage = iota
	Cut            // connections are reset, new ones as well
	Swallow        // bytes are taken and forgotten, no end is told to the other
	Hold           // bytes stay where they are
)

// lane is one direction.
type lane struct {
	bytes atomic.Int64
	mu    sync.Mutex
	free  time.Time // when what was sent at the present rate has left
}

// chunkSize bounds what travels as one.
const chunkSize = 16 << 10

// NewProxy carries connections that l accepts to where dial leads, until Close.
func NewProxy(l net.Listener, dial func(context.Context) (net.Conn, error)) *Proxy {
	p := &Proxy{listen: l, dial: dial}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.mu.changed = make(chan struct{})
	p.mu.links = map[*link]struct{}{}
	p.wg.Go(p.accept)
	return p
}

// Set changes the weather.
func (p *Proxy) Set(w Weather) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.weather = w
	close(p.mu.changed)
	p.mu.changed = make(chan struct{})
	for l := range p.mu.links {
		switch w.How {
		case Cut:
			l.reset()
		case Swallow:
			l.lost.Store(true)
		}
	}
	for _, lane := range []*lane{&p.up, &p.down} {
		lane.mu.Lock()
		lane.free = time.Time{}
		lane.mu.Unlock()
	}
}

// Flap cuts and mends, each for so long, until stop is called, which mends.
func (p *Proxy) Flap(each time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(p.ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(each)
		defer tick.Stop()
		for how := Cut; ; how = Cut - how {
			p.Set(Weather{How: how})
			select {
			case <-tick.C:
			case <-ctx.Done():
				p.Set(Weather{})
				return
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// Up and Down are how many bytes were carried so far to the one that is dialled,
// and back.
func (p *Proxy) Up() int64   { return p.up.bytes.Load() }
func (p *Proxy) Down() int64 { return p.down.bytes.Load() }

// Close resets all connections and waits until nothing is left of them.
func (p *Proxy) Close() {
	p.cancel()
	_ = p.listen.Close()
	p.Set(Weather{How: Cut})
	p.wg.Wait()
}

func (p *Proxy) weather() (Weather, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.weather, p.mu.changed
}

func (p *Proxy) accept() {
	for {
		c, err := p.listen.Accept()
		if err != nil {
			return
		}
		l := &link{p: p, near: c.(*net.TCPConn), done: make(chan struct{})}
		p.mu.Lock()
		how := p.mu.weather.How
		l.lost.Store(how == Swallow)
		if how == Cut || p.ctx.Err() != nil {
			l.reset()
		} else {
			p.mu.links[l] = struct{}{}
			p.wg.Go(l.run)
		}
		p.mu.Unlock()
	}
}

// link is one connection that is carried.
type link struct {
	p    *Proxy
	near *net.TCPConn // the one who dialled
	lost atomic.Bool  // bytes have been swallowed, so all are from now on

	mu    sync.Mutex
	far   *net.TCPConn
	ended bool
	done  chan struct{} // closed by reset
}

func (l *link) run() {
	p := l.p
	defer func() {
		l.reset()
		p.mu.Lock()
		delete(p.mu.links, l)
		p.mu.Unlock()
	}()
	if l.lost.Load() {
		l.drain(l.near)
		return
	}
	far, err := p.dial(p.ctx)
	if err != nil {
		return
	}
	l.mu.Lock()
	l.far = far.(*net.TCPConn)
	ended := l.ended
	l.mu.Unlock()
	if ended {
		_ = far.Close()
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { l.carry(&p.up, l.near, l.far) })
	wg.Go(func() { l.carry(&p.down, l.far, l.near) })
	wg.Wait()
}

// reset ends both connections the hard way.
func (l *link) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.ended = true
	close(l.done)
	for _, c := range []*net.TCPConn{l.near, l.far} {
		if c != nil {
			_ = c.SetLinger(0)
			_ = c.Close()
		}
	}
}

// chunk is on its way. No bytes: the sender has closed its side.
type chunk struct {
	data []byte
	due  time.Time
}

// carry moves bytes from one end to the other until there are no more.
func (l *link) carry(lane *lane, from, to *net.TCPConn) {
	way := make(chan chunk, 1024)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { l.deliver(lane, way, to) })
	defer close(way)
	for {
		w, ok := l.open()
		if !ok {
			return
		}
		buf := make([]byte, chunkSize)
		n, err := from.Read(buf)
		if n > 0 {
			select {
			case way <- chunk{buf[:n], time.Now().Add(w.Delay)}:
			case <-l.done:
				return
			}
		}
		switch {
		case err == nil:
		case l.lost.Load():
			_ = from.Close() // the other end does not hear of it
			return
		case errors.Is(err, io.EOF):
			select {
			case way <- chunk{nil, time.Now().Add(w.Delay)}:
			case <-l.done:
			}
			return
		default:
			l.reset()
			return
		}
	}
}

// deliver writes what is due.
func (l *link) deliver(lane *lane, way <-chan chunk, to *net.TCPConn) {
	for c := range way {
		if !l.until(c.due) {
			continue // to empty the way
		}
		w, ok := l.open()
		if !ok || !l.until(lane.leave(len(c.data), w.Rate)) || l.lost.Load() {
			continue
		}
		if c.data == nil {
			_ = to.CloseWrite()
			continue
		}
		lane.bytes.Add(int64(len(c.data)))
		if _, err := to.Write(c.data); err != nil {
			l.reset()
		}
	}
}

// leave is when n more bytes have left at a rate.
func (a *lane) leave(n int, rate float64) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if rate <= 0 {
		return now
	}
	if a.free.Before(now) {
		a.free = now
	}
	a.free = a.free.Add(time.Duration(float64(n) / rate * float64(time.Second)))
	return a.free
}

// open waits as long as the bytes are to stay; it is false when the link has ended.
func (l *link) open() (Weather, bool) {
	for {
		w, changed := l.p.weather()
		if w.How != Hold {
			return w, true
		}
		select {
		case <-changed:
		case <-l.done:
			return w, false
		}
	}
}

// until waits for a time; it is false when the link ends first.
func (l *link) until(t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.done:
		return false
	}
}

// drain takes bytes and forgets them.
func (l *link) drain(c *net.TCPConn) {
	buf := make([]byte, chunkSize)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
	}
}
