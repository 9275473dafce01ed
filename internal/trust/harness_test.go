package trust

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/crashfs"
)

// deadline after which a test that waits for a peer has failed.
const deadline = 60 * time.Second

// clock is set by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v\nwant %v", err, want)
	}
}

func testCtx(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// hub is an agents' port on loopback TCP, with everything behind it.
type hub struct {
	*Registrar
	t      *testing.T
	clock  *clock
	cfg    Config
	fs     *crashfs.FS
	ln     net.Listener
	joined chan error // what each ServeJoin returned
}

func newHub(t *testing.T, c *clock, admit func(context.Context, Agent) error) *hub {
	t.Helper()
	h := &hub{t: t, clock: c, cfg: Config{Now: c.Now, Timeout: deadline}, fs: crashfs.New(), joined: make(chan error, 64)}
	a, err := OpenAuthority(h.fs, "/trust", h.cfg)
	must(t, err)
	h.Registrar = NewRegistrar(a, NewMemoryTokens(), admit)
	h.ln = serve(t, a.ServerConfig(), h.handle)
	return h
}

// serve runs an accept loop until the test ends, and waits for all it started.
func serve(t *testing.T, cfg *tls.Config, handle func(context.Context, *tls.Conn)) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				handle(ctx, tls.Server(conn, cfg))
			})
		}
	})
	t.Cleanup(func() { ln.Close(); cancel(); wg.Wait() })
	return ln
}

// handle joins, or as a stand-in for the relay answers one line with the name
// of the agent.
func (h *hub) handle(ctx context.Context, conn *tls.Conn) {
	if conn.HandshakeContext(ctx) != nil {
		return
	}
	if conn.ConnectionState().NegotiatedProtocol == ProtoJoin {
		_, err := h.ServeJoin(ctx, conn)
		h.joined <- err
		return
	}
	agent, err := PeerAgent(conn)
	if err != nil {
		h.t.Errorf("handshake done, but no agent: %v", err)
		return
	}
	_, _ = io.WriteString(conn, agent.ID.String())
	_ = conn.Close()
}

func dial(t *testing.T, addr net.Addr) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr.String())
	must(t, err)
	must(t, conn.SetDeadline(time.Now().Add(deadline)))
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (h *hub) token() Token {
	h.t.Helper()
	token, _, err := h.CreateToken(testCtx(h.t), TokenSpec{})
	must(h.t, err)
	return token
}

func (h *hub) joinFrom(fs vfs.FS, token Token) (*Identity, error) {
	j := Joiner{FS: fs, Dir: "/agent", Token: token, Name: "kvm1", Config: h.cfg}
	return j.Join(testCtx(h.t), dial(h.t, h.ln.Addr()))
}

// agent joins a new host.
func (h *hub) agent() *Identity {
	h.t.Helper()
	id, err := h.joinFrom(crashfs.New(), h.token())
	must(h.t, err)
	must(h.t, <-h.joined)
	return id
}

// hello connects with a configuration and returns what the hub calls the peer.
func (h *hub) hello(cfg *tls.Config) (string, error) {
	conn := tls.Client(dial(h.t, h.ln.Addr()), cfg)
	p, err := io.ReadAll(conn)
	return string(p), Explain(err)
}

func (h *hub) exchange(agent Agent) func(context.Context, []byte) ([]byte, error) {
	return func(_ context.Context, request []byte) ([]byte, error) {
		reply, _, _ := h.Renew(agent, request)
		return reply, nil
	}
}

// recorder keeps what an authority's impostor gets to read.
type recorder struct {
	mu  sync.Mutex
	got bytes.Buffer
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got.Write(p)
}

func (r *recorder) bytes() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Clone(r.got.Bytes())
}
