package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"testing"
	"time"
)

const hello = `{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":"Debian"},"capabilities":["oob"]}}` + "\r\n"

// deadline is only there to end a test that has gone wrong.
func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// peer is a scripted QMP server; its methods fail the test from its goroutine.
type peer struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func (p *peer) say(s string) {
	if _, err := p.conn.Write([]byte(s)); err != nil {
		p.t.Errorf("peer: write: %v", err)
	}
}

type command struct {
	Execute string          `json:"execute"`
	OOB     string          `json:"exec-oob"`
	ID      json.RawMessage `json:"id"`
	Args    json.RawMessage `json:"arguments"`
}

// hear returns false when the client is gone.
func (p *peer) hear() (command, bool) {
	var c command
	line, err := p.in.ReadBytes('\n')
	if err != nil {
		return c, false
	}
	if err := json.Unmarshal(line, &c); err != nil {
		p.t.Errorf("peer: %v", err)
	}
	return c, true
}

func (p *peer) ok(c command, value string) {
	p.say(`{"return":` + value + `,"id":` + string(c.ID) + "}\r\n")
}

// handshake greets and accepts the negotiation.
func (p *peer) handshake() {
	p.say(hello)
	if c, ok := p.hear(); ok {
		p.ok(c, "{}")
	}
}

// drain hears until the client goes.
func (p *peer) drain() {
	for {
		if _, ok := p.hear(); !ok {
			return
		}
	}
}

// fake serves one connection with script and returns its address. The script
// has ended when the test has.
func fake(t *testing.T, script func(*peer)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qmp")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		script(&peer{t: t, conn: conn, in: bufio.NewReader(conn)})
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return "unix:" + path
}

func dial(t *testing.T, addr string, o Options) *Client {
	t.Helper()
	c, err := Dial(deadline(t), addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
