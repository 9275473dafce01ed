package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestNotQMP(t *testing.T) {
	for name, words := range map[string]string{
		"ssh":           "SSH-2.0-OpenSSH_9.2\r\n",
		"nbd":           "NBDMAGICIHAVEOPT\x00\x03",
		"other json":    `{"jsonrpc":"2.0"}` + "\n",
		"json array":    "[1,2]\n",
		"closed":        "",
		"half greeting": `{"QMP":`,
		"no object":     `{"QMP":"yes"}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Dial(deadline(t), fake(t, func(p *peer) { p.say(words) }), Options{})
			if !errors.Is(err, ErrNotQMP) || errors.Is(err, ErrNoGreeting) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func TestSilentPeer(t *testing.T) {
	_, err := Dial(deadline(t), fake(t, (*peer).drain), Options{HandshakeTimeout: 20 * time.Millisecond})
	if !errors.Is(err, ErrNoGreeting) || !errors.Is(err, ErrNotQMP) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	// Greets, then never answers.
	_, err = Dial(deadline(t), fake(t, func(p *peer) { p.say(hello); p.drain() }), Options{HandshakeTimeout: 20 * time.Millisecond})
	if !errors.Is(err, ErrNotQMP) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	// The caller gives up first.
	ctx, cancel := context.WithCancel(t.Context())
	_, err = Dial(ctx, fake(t, func(p *peer) { cancel(); p.drain() }), Options{})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

func TestNegotiationRefused(t *testing.T) {
	_, err := Dial(deadline(t), fake(t, func(p *peer) {
		p.say(hello)
		c, _ := p.hear()
		p.say(`{"error":{"class":"CommandNotFound","desc":"no"},"id":` + string(c.ID) + "}")
	}), Options{})
	if !errors.Is(err, CommandNotFound) || errors.Is(err, ErrNotQMP) {
		t.Fatalf("got %v", err)
	}
}

func TestErrorsAndClasses(t *testing.T) {
	c := dial(t, fake(t, func(p *peer) {
		p.handshake()
		q, _ := p.hear()
		p.say(`{"id":` + string(q.ID) + `,"error":{"class":"DeviceNotFound","desc":"no device"}}`)
		q, _ = p.hear()
		p.ok(q, `"a string"`)
		p.drain()
	}), Options{})
	err := c.Execute(deadline(t), "block_resize", map[string]any{"size": 1}, nil)
	var e *Error
	if !errors.As(err, &e) || e.Desc != "no device" || e.Command != "block_resize" {
		t.Fatalf("got %v", err)
	}
	if !errors.Is(err, DeviceNotFound) || errors.Is(err, GenericError) {
		t.Fatalf("class of %v", err)
	}
	var n int
	if err := c.Execute(deadline(t), "x", nil, &n); err == nil {
		t.Fatal("a result of another type was accepted")
	}
	if err := c.Execute(deadline(t), "x", func() {}, nil); err == nil {
		t.Fatal("arguments that cannot be encoded were accepted")
	}
	if c.Err() != nil {
		t.Fatalf("one bad call ended the client: %v", c.Err())
	}
}

// Replies come in any order and mixed with messages nobody asked for.
func TestManyAtOnce(t *testing.T) {
	const rounds = 50
	c := dial(t, fake(t, func(p *peer) {
		p.handshake()
		for range rounds {
			var held []command
			for range maxInBand {
				q, ok := p.hear()
				if !ok {
					return
				}
				held = append(held, q)
			}
			p.say(`{"return":{},"id":999999}{"return":{},"id":"x"}{"return":{}}{"error":{"class":"GenericError","desc":""}}{"event":"E"}` + "\n{}\r\n")
			for i := len(held) - 1; i >= 0; i-- {
				p.ok(held[i], string(held[i].Args))
			}
		}
		p.drain()
	}), Options{})
	var wg sync.WaitGroup
	for i := range maxInBand {
		wg.Go(func() {
			for r := range rounds {
				want := fmt.Sprintf("%d/%d", i, r)
				var got struct{ V string }
				if err := c.Execute(deadline(t), "echo", map[string]string{"V": want}, &got); err != nil || got.V != want {
					t.Errorf("got %q, %v, want %q", got.V, err, want)
				}
			}
		})
	}
	wg.Wait()
}

// A peer that answers nothing: callers are freed by their contexts, no more
// than maxInBand commands reach it, out-of-band ones still do, and late
// replies go to nobody.
func TestHangingPeer(t *testing.T) {
	release := make(chan struct{})
	heardOOB := make(chan int, 1)
	c := dial(t, fake(t, func(p *peer) {
		p.handshake()
		var held []command
		for {
			q, ok := p.hear()
			if !ok {
				return
			}
			if q.OOB == "" {
				held = append(held, q)
				continue
			}
			p.ok(q, `"oob"`)
			break
		}
		heardOOB <- len(held)
		<-release
		for _, q := range held {
			p.ok(q, `"late"`)
		}
		q, _ := p.hear()
		p.ok(q, `"fresh"`)
		p.drain()
	}), Options{})
	for range 3 * maxInBand {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		if err := c.Execute(ctx, "stuck", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		cancel()
	}
	var s string
	if err := c.ExecuteOOB(deadline(t), "yank", nil, &s); err != nil || s != "oob" {
		t.Fatalf("oob: %q, %v", s, err)
	}
	if n := <-heardOOB; n != maxInBand {
		t.Fatalf("%d commands in band were sent, want %d", n, maxInBand)
	}
	close(release)
	if err := c.Execute(deadline(t), "next", nil, &s); err != nil || s != "fresh" {
		t.Fatalf("after the late replies: %q, %v", s, err)
	}
}

func TestConnectionLost(t *testing.T) {
	c := dial(t, fake(t, func(p *peer) {
		p.handshake()
		for range 3 {
			p.hear()
		}
		p.say(`{"event":"SHUTDOWN"}` + "\n")
	}), Options{})
	sub := c.Subscribe(0)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			err := c.Execute(deadline(t), "x", nil, nil)
			if !errors.Is(err, ErrConnectionLost) || !errors.Is(err, io.EOF) {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	<-c.Done()
	if e, err := sub.Next(deadline(t)); err != nil || e.Name != "SHUTDOWN" {
		t.Fatalf("the last event is lost: %v, %v", e, err)
	}
	if _, err := sub.Next(deadline(t)); !errors.Is(err, ErrConnectionLost) {
		t.Fatalf("got %v", err)
	}
	if err := c.Execute(deadline(t), "x", nil, nil); !errors.Is(err, ErrConnectionLost) {
		t.Fatalf("got %v", err)
	}
	c.Close()
	if err := c.Err(); !errors.Is(err, ErrConnectionLost) {
		t.Fatalf("Close changed the cause: %v", err)
	}
}

func TestClose(t *testing.T) {
	c := dial(t, fake(t, func(p *peer) { p.handshake(); p.drain() }), Options{})
	sub := c.Subscribe(0)
	got := make(chan error, 1)
	go func() { got <- c.Execute(deadline(t), "x", nil, nil) }()
	c.Close()
	c.Close()
	if err := <-got; !errors.Is(err, ErrClosed) {
		t.Fatalf("got %v", err)
	}
	if _, err := sub.Next(deadline(t)); !errors.Is(err, ErrClosed) {
		t.Fatalf("got %v", err)
	}
	sub.Close()
	sub.Close()
}

func TestMessageLimit(t *testing.T) {
	big := strings.Repeat("x", 1<<20)
	script := func(p *peer) {
		p.handshake()
		q, ok := p.hear()
		if ok {
			// The client may hang up in the middle of it.
			p.conn.Write([]byte(`{"return":"` + big + `","id":` + string(q.ID) + "}"))
		}
		p.drain()
	}
	var s string
	if err := dial(t, fake(t, script), Options{}).Execute(deadline(t), "x", nil, &s); err != nil || s != big {
		t.Fatalf("1 MiB: %d bytes, %v", len(s), err)
	}
	err := dial(t, fake(t, script), Options{MaxMessage: 1 << 16}).Execute(deadline(t), "x", nil, &s)
	if !errors.Is(err, ErrMessageTooLong) || !errors.Is(err, ErrConnectionLost) {
		t.Fatalf("got %v", err)
	}
}

// A limit per message does not add up over messages.
func TestLimitIsPerMessage(t *testing.T) {
	c := dial(t, fake(t, func(p *peer) {
		p.handshake()
		for range 1000 {
			p.say(`{"event":"E","data":"` + strings.Repeat("x", 500) + `"}` + "\r\n")
		}
		q, _ := p.hear()
		p.ok(q, "{}")
		p.drain()
	}), Options{MaxMessage: 4096})
	if err := c.Execute(deadline(t), "x", nil, nil); err != nil {
		t.Fatal(err)
	}
}

// Nobody reads the subscription: replies still come, the newest events stay,
// and the subscriber hears how many it missed.
func TestSlowSubscriber(t *testing.T) {
	const events, buffer = 1000, 10
	var seen []string
	c := dial(t, fake(t, func(p *peer) {
		p.handshake()
		q, _ := p.hear()
		for i := range events {
			p.say(fmt.Sprintf(`{"event":"E","data":%d,"timestamp":{"seconds":%d,"microseconds":7}}`, i, i))
		}
		p.ok(q, "{}")
		p.drain()
	}), Options{OnEvent: func(e Event) { seen = append(seen, string(e.Data)) }})
	sub := c.Subscribe(buffer)
	defer sub.Close()
	if err := c.Execute(deadline(t), "x", nil, nil); err != nil {
		t.Fatal(err)
	}
	// The reply came after the events, so OnEvent has seen them all.
	if len(seen) != events || seen[events-1] != "999" {
		t.Fatalf("OnEvent saw %d", len(seen))
	}
	for i := range buffer {
		e, err := sub.Next(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		n := events - buffer + i
		want := uint64(0)
		if i == 0 {
			want = events - buffer
		}
		if string(e.Data) != fmt.Sprint(n) || e.Lost != want || !e.Time.Equal(time.Unix(int64(n), 7000)) {
			t.Fatalf("event %d: %s at %v, lost %d", i, e.Data, e.Time, e.Lost)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sub.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]string{
		"unix:/a/b":       "unix /a/b",
		"unix:rel":        "unix rel",
		"/a/b":            "unix /a/b",
		"tcp:[::1]:4444":  "tcp [::1]:4444",
		"tcp:host:1":      "tcp host:1",
		"unix:":           "error",
		"tcp:host":        "error",
		"host:1":          "error",
		"":                "error",
		"fd:3":            "error",
		"unix:/with:colo": "unix /with:colo",
	} {
		n, a, err := ParseAddress(in)
		got := n + " " + a
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// The peer reads nothing: a call whose message does not fit into the socket
// is freed by its context, and so is the one behind it.
func TestPeerDoesNotRead(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() {
		theirs.Write([]byte(hello))
		buf := make([]byte, 4096)
		theirs.Read(buf)
		theirs.Write([]byte(`{"return":{},"id":1}`))
	}()
	c, err := NewClient(deadline(t), ours, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 * maxInBand {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		if err := c.Execute(ctx, "x", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		cancel()
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add([]byte(hello))
	f.Add([]byte(`{"return":{},"id":1}{"event":"STOP","timestamp":{"seconds":-1,"microseconds":-1}}`))
	f.Add([]byte("{\r\n  \"error\": {\"class\": \"GenericError\", \"desc\": \"\\ud800\"}\r\n}"))
	f.Add([]byte(`{"QMP":{"version":{"qemu":{"major":1e3}},"capabilities":[1,null,"oob"]}}`))
	f.Add([]byte(strings.Repeat(`{"data":[`, 200)))
	f.Add([]byte(`{"id":18446744073709551616,"return":null}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		const limit = 1 << 12
		d := newDecoder(strings.NewReader(string(in)), limit)
		for {
			m, err := d.next()
			if err != nil {
				return
			}
			if m.QMP != nil {
				m.greeting()
			}
			if e := m.event(); len(e.Data) > 0 && !json.Valid(e.Data) {
				t.Fatalf("event data is no JSON: %q", e.Data)
			}
		}
	})
}

// FuzzClient feeds a whole client: it must end, and never panic or hang.
func FuzzClient(f *testing.F) {
	f.Add([]byte(`{"return":{},"id":1}{"return":{"a":1},"id":2}`))
	f.Add([]byte(`{"return":{},"id":1}{"return":{},"id":1}{"event":"X"}`))
	f.Add([]byte(`{"error":{"class":1},"id":1}`))
	f.Add([]byte(`{"return":{},"id":1}]`))
	f.Fuzz(func(t *testing.T, in []byte) {
		ours, theirs := net.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() { io.Copy(io.Discard, theirs) })
		wg.Go(func() {
			theirs.Write([]byte(hello))
			theirs.Write(in)
			theirs.Close()
		})
		c, err := NewClient(deadline(t), ours, Options{OnEvent: func(Event) {}})
		if err == nil {
			var v any
			c.Execute(deadline(t), "x", nil, &v)
			<-c.Done()
			c.Close()
		}
		ours.Close()
		wg.Wait()
	})
}
