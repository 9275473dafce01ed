package main

import (
	"net"
	"sync"
	"time"
)

// link carries TCP connections to an address, each direction half of delay late.
type link struct {
	l     net.Listener
	to    string
	delay time.Duration
	wg    sync.WaitGroup
}

// newLink listens on loopback until close.
func newLink(to string, delay time.Duration) (*link, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	k := &link{l: l, to: to, delay: delay / 2}
	k.wg.Go(k.accept)
	return k, nil
}

func (k *link) addr() string { return k.l.Addr().String() }

func (k *link) close() {
	_ = k.l.Close()
	k.wg.Wait()
}

func (k *link) accept() {
	for {
		near, err := k.l.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", k.to)
		if err != nil {
			_ = near.Close()
			continue
		}
		k.wg.Go(func() { k.carry(far, near) })
		k.wg.Go(func() { k.carry(near, far) })
	}
}

// parcel is some bytes that are to arrive at a time.
type parcel struct {
	at time.Time
	p  []byte
}

// carry copies one direction; what is on its way is bounded as it is by a socket.
func (k *link) carry(to, from net.Conn) {
	way := make(chan parcel, 256) // of 64 KiB each at most
	go func() {
		defer close(way)
		for {
			p := make([]byte, 64<<10)
			n, err := from.Read(p)
			if n > 0 {
				way <- parcel{time.Now().Add(k.delay), p[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	for x := range way {
		time.Sleep(time.Until(x.at))
		if _, err := to.Write(x.p); err != nil {
			break
		}
	}
	_, _ = to.Close(), from.Close()
	for range way { // lets the reader go
	}
}
