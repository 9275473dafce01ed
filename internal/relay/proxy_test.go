package relay

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// proxy is a network with faults between two TCP peers on loopback.
type proxy struct {
	t  testing.TB
	ln net.Listener
	to string
	wg sync.WaitGroup

	mu struct {
		sync.Mutex
		conns    map[net.Conn]bool
		cutAfter int64         // bytes until every connection is cut; <0 never
		hole     chan struct{} // not nil: swallows everything until it is closed
		delay    time.Duration // of each piece
		rate     int64         // bytes per second, both ways; 0 any
		swallow  int64         // bytes the hole took
		through  int64         // bytes that passed
	}
}

func newProxy(t testing.TB, to string) *proxy {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{t: t, ln: ln, to: to}
	p.mu.conns = make(map[net.Conn]bool)
	p.mu.cutAfter = -1
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		p.heal()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.ln.Addr().String() }

func (p *proxy) accept() {
	for {
		a, err := p.ln.Accept()
		if err != nil {
			return
		}
		b, err := net.Dial("tcp", p.to)
		if err != nil {
			_ = a.Close()
			continue
		}
		p.mu.Lock()
		p.mu.conns[a], p.mu.conns[b] = true, true
		p.mu.Unlock()
		p.wg.Go(func() { p.carry(a, b) })
		p.wg.Go(func() { p.carry(b, a) })
	}
}

// cut ends all connections at once.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.mu.conns {
		_ = c.Close()
	}
	clear(p.mu.conns)
}

// cutAt ends all connections when n more bytes have passed.
func (p *proxy) cutAt(n int64) {
	p.mu.Lock()
	p.mu.cutAfter = n
	p.mu.Unlock()
}

// blackhole keeps the connections and passes nothing on, for ever or until heal.
func (p *proxy) blackhole() {
	p.mu.Lock()
	p.mu.hole = make(chan struct{})
	p.mu.Unlock()
}

func (p *proxy) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.hole != nil {
		close(p.mu.hole)
		p.mu.hole = nil
	}
}

func (p *proxy) swallowed() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.swallow
}

// pass says how many of n bytes go through, and after what time.
func (p *proxy) pass(n int) (int, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.cutAfter >= 0 {
		n = int(min(int64(n), p.mu.cutAfter))
		p.mu.cutAfter -= int64(n)
	}
	d := p.mu.delay
	if p.mu.rate > 0 {
		d += time.Duration(int64(n) * int64(time.Second) / p.mu.rate)
	}
	p.mu.through += int64(n)
	return n, d
}

func (p *proxy) carry(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		hole := p.mu.hole
		if hole != nil {
			p.mu.swallow += int64(n)
		}
		p.mu.Unlock()
		if hole != nil {
			// What fell in is lost; the peers may end the connection.
			p.wg.Go(func() { <-hole; _ = from.Close() })
			_, _ = io.Copy(io.Discard, from)
			<-hole // that the peer is gone is not passed on either
			return
		}
		k, d := p.pass(n)
		if d > 0 {
			<-time.After(d)
		}
		if _, err := to.Write(buf[:k]); err != nil || k < n {
			p.cutAt(-1)
			p.cut()
			return
		}
	}
}
