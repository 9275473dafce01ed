package hub

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/relay"
	"github.com/rephub/rephub/internal/trust"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/crashfs"
)

// logText is a log that tests read.
type logText struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// lines with all the words.
func (l *logText) lines(words ...string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
next:
	for line := range strings.Lines(l.buf.String()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}

func (l *logText) await(t *testing.T, words ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the log says %q", words), func(context.Context) error {
		if len(l.lines(words...)) == 0 {
			return fmt.Errorf("it says %q", l.lines())
		}
		return nil
	})
}

// handClock is set by hand.
type handClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *handClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *handClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// agentsRig is the part of a hub that agents meet, with a catalog of its own.
type agentsRig struct {
	*Hub
	t     *testing.T
	dir   string
	clock *handClock
	log   *logText
	trust trust.Config
	addr  net.Addr
	stop  func() // ends the port, and waits
}

func newAgentsRig(t *testing.T, change func(*agentsConfig)) *agentsRig {
	t.Helper()
	r := &agentsRig{t: t, dir: shortDir(t), clock: &handClock{now: time.Now()}, log: &logText{}}
	ctx, cancel := context.WithCancel(context.Background())
	super, err := catalog.NewSupervisor(catalog.SupervisorConfig{Dir: filepath.Join(r.dir, "c")})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- super.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the catalog ended: %v", err)
		}
	})
	store, err := catalog.Open(catalog.Config{Endpoints: []string{super.Endpoint()}, Hub: "hub-1", Timeout: deadline})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	eventually(t, "the catalog answers", store.Ping)
	r.trust = trust.Config{Now: r.clock.Now, Timeout: deadline}
	r.serve(store, change)
	return r
}

// serve begins a hub's life, of which there may be several.
func (r *agentsRig) serve(store *catalog.Store, change func(*agentsConfig)) {
	r.t.Helper()
	cfg := agentsConfig{
		Dir: filepath.Join(r.dir, "authority"), Store: store, Trust: r.trust,
		Logger: slog.New(slog.NewTextHandler(r.log, nil)), Handshake: deadline, Retry: 10 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	a, err := newAgents(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.addr = l.Addr()
	r.Hub = &Hub{agents: a, store: store, data: &dataDir{id: "hub-1"}, cfg: Config{Logger: cfg.Logger}, where: Ready{Agents: []string{l.Addr().String()}}}
	r.Hub.mu.groups = map[string]*entry{}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx, l) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		l.Close()
		if err := <-ended; err != nil {
			r.t.Errorf("the agents' port ended: %v", err)
		}
	})
	r.t.Cleanup(r.stop)
}

func (r *agentsRig) token(req api.TokenRequest) trust.Token {
	r.t.Helper()
	out, err := r.CreateToken(r.t.Context(), req)
	if err != nil {
		r.t.Fatal(err)
	}
	t, err := trust.ParseToken(out.Token)
	if err != nil {
		r.t.Fatal(err)
	}
	if out.ID != t.ID().String() || len(out.Agents) != 1 {
		r.t.Fatalf("token %+v", out)
	}
	return t
}

func (r *agentsRig) dial() net.Conn {
	r.t.Helper()
	c, err := net.Dial("tcp", r.addr.String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

// join joins from a host whose disk is fs.
func (r *agentsRig) join(fs vfs.FS, token trust.Token, name string) (*trust.Identity, error) {
	return trust.Joiner{FS: fs, Dir: "/agent", Token: token, Name: name, Config: r.trust}.Join(r.t.Context(), r.dial())
}

func (r *agentsRig) agent(name string) *trust.Identity {
	r.t.Helper()
	id, err := r.join(crashfs.New(), r.token(api.TokenRequest{}), name)
	if err != nil {
		r.t.Fatal(err)
	}
	return id
}

// shake makes a TLS connection, and says what the hub thinks of it.
func (r *agentsRig) shake(id *trust.Identity) (*tls.Conn, error) {
	c := tls.Client(r.dial(), id.ClientConfig())
	if err := c.HandshakeContext(r.t.Context()); err != nil {
		return nil, trust.Explain(err)
	}
	return c, nil
}

// refusal is why the hub refuses the agent.
func (r *agentsRig) refusal(id *trust.Identity) error {
	c, err := r.shake(id)
	if err != nil {
		return err
	}
	_ = c.SetDeadline(time.Now().Add(deadline))
	_, err = io.Copy(io.Discard, c)
	return trust.Explain(err)
}

// far is an agent's end of a connection that carries calls.
type far struct {
	*relay.Conn
	ended chan error // what Run said
}

// connect makes a connection and returns when the hub has taken it.
func (r *agentsRig) connect(id *trust.Identity) *far {
	r.t.Helper()
	c, err := r.shake(id)
	if err != nil {
		r.t.Fatal(err)
	}
	f := &far{ended: make(chan error, 1)}
	f.Conn, err = relay.New(c, relay.Config{Handler: func(_ context.Context, _, method string, params json.RawMessage) (any, error) {
		return method + string(params), nil
	}})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { f.ended <- f.Run(ctx) }()
	r.t.Cleanup(func() { cancel(); <-f.Done() })
	if err := f.Call(r.t.Context(), host.CallHello, host.Hello{Version: "v9", Host: "box"}, nil); err != nil {
		r.t.Fatalf("hello: %v", err)
	}
	return f
}

// cut waits until the hub has ended the connection.
func (r *agentsRig) cut(f *far) {
	r.t.Helper()
	select {
	case <-f.ended:
	case <-time.After(deadline):
		r.t.Fatal("the connection has not been ended")
	}
}

func (r *agentsRig) listed(name string) api.Agent {
	r.t.Helper()
	l, err := r.ListAgents(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, a := range l.Agents {
		if a.Name == name {
			return a
		}
	}
	r.t.Fatalf("agent %s is not in %+v", name, l)
	return api.Agent{}
}
