package model

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// late stands before an NBD server and keeps back what it answers, so that what
// is read through it is old by then. It returns its address.
func late(t *testing.T, server string, by time.Duration) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "late")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "nbd")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	t.Cleanup(func() {
		close(stop)
		l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("unix", strings.TrimPrefix(server, "unix:"))
			if err != nil {
				c.Close()
				continue
			}
			ended := make(chan struct{})
			wg.Go(func() {
				select {
				case <-stop:
				case <-ended:
				}
				c.Close()
				s.Close()
			})
			wg.Go(func() { _, _ = io.Copy(s, c); s.Close() }) // ends with either side
			wg.Go(func() { pass(c, s, by); close(ended) })
		}
	})
	return "unix:" + path
}

// pass copies what comes from s to c, each piece some time after it came, until
// either side ends.
func pass(c io.Writer, s io.Reader, by time.Duration) {
	type piece struct {
		data []byte
		due  time.Time
	}
	pieces := make(chan piece, 1024)
	go func() {
		defer close(pieces)
		for {
			p := make([]byte, 256<<10)
			n, err := s.Read(p)
			if err != nil {
				return
			}
			pieces <- piece{p[:n], time.Now().Add(by)}
		}
	}()
	for p := range pieces {
		<-time.After(time.Until(p.due))
		if _, err := c.Write(p.data); err != nil {
			for range pieces {
			}
			return
		}
	}
}
