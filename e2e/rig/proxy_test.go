package rig

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// echo answers every connection with what it says; got counts what arrives.
type echo struct {
	proxy *Proxy
	got   atomic.Int64
}

func newEcho(t *testing.T) *echo {
	t.Helper()
	e := &echo{}
	far, near := listenLocal(t), listenLocal(t)
	go func() {
		for {
			c, err := far.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, io.TeeReader(c, counter{&e.got}))
			}()
		}
	}()
	e.proxy = NewProxy(near, func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", far.Addr().String())
	})
	t.Cleanup(e.proxy.Close)
	return e
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) { c.n.Add(int64(len(p))); return len(p), nil }

func listenLocal(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// dial connects through the proxy; nothing on the connection takes longer than a minute.
func (e *echo) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", e.proxy.listen.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// say sends and checks that the same comes back; it tells how long that took.
func say(t *testing.T, c *net.TCPConn, n int) time.Duration {
	t.Helper()
	sent := make([]byte, n)
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	began := time.Now()
	go func() { _, _ = c.Write(sent) }()
	back := make([]byte, n)
	if _, err := io.ReadFull(c, back); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sent, back) {
		t.Fatal("other bytes came back")
	}
	return time.Since(began)
}

func TestProxyCarriesAndCounts(t *testing.T) {
	e := newEcho(t)
	c := e.dial(t)
	const n = 3<<20 + 1
	say(t, c, n)
	if e.proxy.Up() != n || e.proxy.Down() != n {
		t.Errorf("%d bytes up and %d down of %d", e.proxy.Up(), e.proxy.Down(), n)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after a close of one side: %v", err)
	}
}

func TestProxyIsSlow(t *testing.T) {
	e := newEcho(t)
	c := e.dial(t)
	e.proxy.Set(Weather{Delay: 25 * time.Millisecond})
	if took := say(t, c, 100_000); took < 50*time.Millisecond {
		t.Errorf("there and back in %s, with 25 ms each way", took)
	}
	e.proxy.Set(Weather{Rate: 1 << 20})
	const n = 256 << 10
	if took := say(t, c, n); took < 240*time.Millisecond {
		t.Errorf("%d bytes in %s, with 1 MiB/s", n, took)
	}
}

func TestProxyCuts(t *testing.T) {
	e := newEcho(t)
	c := e.dial(t)
	say(t, c, 1)
	e.proxy.Set(Weather{How: Cut})
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection that was there: %v", err)
	}
	fresh, err := net.Dial("tcp", e.proxy.listen.Addr().String())
	if err == nil {
		defer fresh.Close()
		_, err = fresh.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a new connection: %v", err)
	}
	e.proxy.Set(Weather{})
	say(t, e.dial(t), 1000)
}

func TestProxySwallows(t *testing.T) {
	e := newEcho(t)
	old := e.dial(t)
	say(t, old, 10)
	e.proxy.Set(Weather{How: Swallow})
	during := e.dial(t)
	for _, c := range []net.Conn{old, during} {
		if _, err := c.Write(make([]byte, 4<<20)); err != nil {
			t.Errorf("bytes are to be taken: %v", err)
		}
	}
	e.proxy.Set(Weather{})
	say(t, e.dial(t), 1000)
	// Neither is carried on, nor told of an end, now that new ones are.
	for _, c := range []net.Conn{old, during} {
		if _, err := c.Write(make([]byte, 4<<20)); err != nil {
			t.Errorf("bytes are to be taken: %v", err)
		}
		if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		var timeout net.Error
		if _, err := c.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("a swallowed connection answers with %v", err)
		}
	}
	if got := e.got.Load(); got != 1010 {
		t.Errorf("%d bytes arrived", got)
	}
}

func TestProxyHolds(t *testing.T) {
	e := newEcho(t)
	c := e.dial(t)
	say(t, c, 10)
	e.proxy.Set(Weather{How: Hold})
	if _, err := c.Write([]byte("later")); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, _ := c.Read(make([]byte, 1)); n != 0 {
		t.Error("it was not held")
	}
	e.proxy.Set(Weather{})
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	back := make([]byte, 5)
	if _, err := io.ReadFull(c, back); err != nil || string(back) != "later" {
		t.Errorf("%q, %v", back, err)
	}
}

func TestProxyFlaps(t *testing.T) {
	e := newEcho(t)
	c := e.dial(t)
	say(t, c, 1)
	stop := e.proxy.Flap(10 * time.Millisecond)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection that was there: %v", err)
	}
	stop()
	say(t, e.dial(t), 1)
}

// Hub and host reach each other through the proxy and in no other way.
func TestNetwork(t *testing.T) {
	n := NewNetwork(t)
	var l net.Listener
	if err := n.Hub.Do(func() (err error) { l, err = net.Listen("tcp", n.HubListen); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	dial := func(where *Namespace, addr string) (c net.Conn, err error) {
		err = where.Do(func() (err error) {
			c, err = (&net.Dialer{Timeout: 20 * time.Second}).Dial("tcp", addr)
			return err
		})
		return c, err
	}
	c, err := dial(n.Host, n.AgentDial)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	say(t, c.(*net.TCPConn), 100_000)
	if n.Proxy.Up() != 100_000 {
		t.Errorf("the proxy has carried %d bytes", n.Proxy.Up())
	}
	if c, err := dial(n.Host, n.HubListen); err == nil {
		c.Close()
		t.Error("the hub is reached by another way")
	}
}
