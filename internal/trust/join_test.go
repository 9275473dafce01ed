package trust

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vfs/crashfs"
)

func TestJoinedAgentIsKnown(t *testing.T) {
	var admitted []Agent
	h := newHub(t, newClock(), func(_ context.Context, a Agent) error { admitted = append(admitted, a); return nil })
	fs := crashfs.New()
	id, err := h.joinFrom(fs, h.token())
	must(t, err)
	must(t, <-h.joined)
	if len(admitted) != 1 || admitted[0] != id.Agent() || id.Agent().Name != "kvm1" {
		t.Fatalf("admitted %v, joined as %v", admitted, id.Agent())
	}
	for range 2 { // as it is, and after a restart
		got, err := h.hello(id.ClientConfig())
		must(t, err)
		if got != id.Agent().ID.String() {
			t.Fatalf("the hub takes agent %s for %q", id.Agent().ID, got)
		}
		if id, err = LoadIdentity(fs.Crash(1), "/agent", h.cfg); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := fs.Stat("/agent/" + joiningFile); err == nil {
		t.Error("the key of the join is still there twice")
	}
}

// A stolen token: several hosts use it at once.
func TestTokenUsedTwiceAtOnceHasOneWinner(t *testing.T) {
	h := newHub(t, newClock(), nil)
	for range 5 {
		token := h.token()
		const hosts = 6
		errs := make([]error, hosts)
		var wg sync.WaitGroup
		for i := range hosts {
			conn := dial(t, h.ln.Addr())
			wg.Go(func() {
				j := Joiner{FS: crashfs.New(), Dir: "/agent", Token: token, Name: "thief", Config: h.cfg}
				_, errs[i] = j.Join(context.Background(), conn)
			})
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			<-h.joined
			if err == nil {
				won++
			} else if !errors.Is(err, ErrTokenUsed) {
				t.Errorf("a loser hears: %v", err)
			}
		}
		if won != 1 {
			t.Fatalf("%d hosts joined with one token", won)
		}
	}
}

func TestTokenThatIsNoLongerGood(t *testing.T) {
	c := newClock()
	h := newHub(t, c, nil)
	token := h.token()
	c.add(time.Hour)
	_, err := h.joinFrom(crashfs.New(), token)
	wantErr(t, err, ErrTokenExpired)
	wantErr(t, <-h.joined, ErrTokenExpired)

	unknown := newToken(h.authority.Fingerprint())
	_, err = h.joinFrom(crashfs.New(), unknown)
	wantErr(t, err, ErrTokenUnknown)

	c.add(forgetAfter + time.Second) // swept by the next
	fresh := h.token()
	_, err = h.joinFrom(crashfs.New(), token)
	wantErr(t, err, ErrTokenUnknown)
	c.add(time.Hour - time.Second)
	_, err = h.joinFrom(crashfs.New(), fresh)
	must(t, err)
}

// A token whose hash at the hub is another's, as in a damaged store.
func TestTokenSecretIsCompared(t *testing.T) {
	h := newHub(t, newClock(), nil)
	token := h.token()
	rec, err := h.tokens.(*MemoryTokens).Claim(testCtx(t), token.ID(), TokenClaim{})
	must(t, err)
	rec.Claim, rec.Hash[31] = nil, rec.Hash[31]^1
	must(t, h.tokens.Put(testCtx(t), token.ID(), rec))
	_, err = h.joinFrom(crashfs.New(), token)
	wantErr(t, err, ErrTokenUnknown)
}

func TestHostComesBackAsTheAgentItWas(t *testing.T) {
	h := newHub(t, newClock(), nil)
	was := h.agent().Agent()
	token, _, err := h.CreateToken(testCtx(t), TokenSpec{Agent: was.ID})
	must(t, err)
	fs := crashfs.New()
	id, err := h.joinFrom(fs, token)
	must(t, err)
	if id.Agent() != was {
		t.Fatalf("was %v, came back as %v", was, id.Agent())
	}
	again, err := LoadIdentity(fs, "/agent", h.cfg)
	must(t, err)
	if !again.JoinedWith(token) || again.JoinedWith(h.token()) {
		t.Error("the identity does not know with which token it was got")
	}
	late, _, err := h.CreateToken(testCtx(t), TokenSpec{Agent: was.ID})
	must(t, err)
	must(t, h.authority.Revoke(was.ID))
	_, _, err = h.CreateToken(testCtx(t), TokenSpec{Agent: was.ID})
	wantErr(t, err, ErrRevoked)
	_, err = h.joinFrom(crashfs.New(), late)
	wantErr(t, err, ErrRevoked)
}

// What the hub refuses for a reason of its own does not cost the token.
func TestNotAdmittedMayTryAgain(t *testing.T) {
	var ids []AgentID
	h := newHub(t, newClock(), func(_ context.Context, a Agent) error {
		ids = append(ids, a.ID)
		switch len(ids) {
		case 1:
			return &NotAdmittedError{Reason: "the name is\x1b[31m taken"}
		case 2:
			return errors.New("secret of the hub")
		}
		return nil
	})
	fs, token := crashfs.New(), h.token()
	_, err := h.joinFrom(fs, token)
	var not *NotAdmittedError
	if !errors.As(err, &not) || not.Reason != "the name is [31m taken" {
		t.Fatalf("first: %v", err)
	}
	_, err = h.joinFrom(fs, token)
	if wantErr(t, err, ErrHub); strings.Contains(err.Error(), "secret") {
		t.Fatalf("the hub's own trouble is told: %v", err)
	}
	_, err = LoadIdentity(fs, "/agent", h.cfg)
	wantErr(t, err, ErrNoIdentity)
	id, err := h.joinFrom(fs, token)
	must(t, err)
	for _, seen := range ids {
		if seen != id.Agent().ID {
			t.Fatalf("one host was several agents: %v", ids)
		}
	}
}

// impostor is a hub of another making that reads all it can get.
func impostor(t *testing.T, cfg *tls.Config) (net.Addr, *recorder, chan error) {
	rec, done := &recorder{}, make(chan error, 1)
	ln := serve(t, cfg, func(ctx context.Context, conn *tls.Conn) {
		err := conn.HandshakeContext(ctx)
		_, _ = io.Copy(rec, conn)
		done <- err
	})
	return ln.Addr(), rec, done
}

func TestSecretIsNotSentToAnotherAuthority(t *testing.T) {
	c := newClock()
	h, other := newHub(t, c, nil), newHub(t, c, nil)
	agent := h.agent()
	own, err := other.authority.GetCertificate(nil)
	must(t, err)
	real, err := h.authority.GetCertificate(nil)
	must(t, err)
	mixed := *own // a certificate of ours, with the real authority beside it
	mixed.Certificate = [][]byte{own.Certificate[0], real.Certificate[1]}
	three := *own
	three.Certificate = [][]byte{own.Certificate[0], own.Certificate[1], real.Certificate[1]}
	asAgent := *agent.certificate() // an agent that plays hub
	asAgent.Certificate = [][]byte{asAgent.Certificate[0], real.Certificate[1]}
	alone := *real
	alone.Certificate = real.Certificate[:1]

	for _, tc := range []struct {
		name   string
		cert   *tls.Certificate
		fooled bool
	}{
		{"another authority", own, false},
		{"the authority shown, not used", &mixed, false},
		{"a longer chain", &three, false},
		{"an agent's certificate", &asAgent, false},
		{"no authority shown", &alone, false},
		{"the hub itself, as a control", real, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr, rec, done := impostor(t, &tls.Config{Certificates: []tls.Certificate{*tc.cert}, NextProtos: []string{ProtoJoin}, Time: c.Now})
			token := h.token()
			j := Joiner{FS: crashfs.New(), Dir: "/agent", Token: token, Name: "kvm1", Config: h.cfg}
			if tc.fooled {
				conn := dial(t, addr)
				cfg := j.withDefaults()
				j.Config = cfg
				client := tls.Client(conn, j.tlsConfig())
				must(t, writeMessage(client, requestKind, certRequest{Secret: token.secret[:]}))
				must(t, client.Close())
				must(t, <-done)
				if len(rec.bytes()) < 32 {
					t.Fatal("the recorder records nothing")
				}
				return
			}
			_, err := j.Join(testCtx(t), dial(t, addr))
			wantErr(t, err, ErrWrongHub)
			if herr := <-done; herr == nil {
				t.Error("the handshake went through")
			}
			if got := rec.bytes(); len(got) != 0 {
				t.Fatalf("%d bytes were sent to an impostor: %q", len(got), got)
			}
			// And the token is still good.
			_, err = h.joinFrom(crashfs.New(), token)
			must(t, err)
		})
	}
}

func TestJoinWithWrongClock(t *testing.T) {
	h := newHub(t, newClock(), nil)
	late := newClock()
	late.add(30 * 24 * time.Hour)
	j := Joiner{FS: crashfs.New(), Dir: "/agent", Token: h.token(), Name: "kvm1", Config: Config{Now: late.Now}}
	_, err := j.Join(testCtx(t), dial(t, h.ln.Addr()))
	wantErr(t, err, ErrClock)
}

// The answer is lost, in every way: the same host goes on with the same token.
func TestLostAnswerIsAskedForAgain(t *testing.T) {
	h := newHub(t, newClock(), nil)
	fs, token := crashfs.New(), h.token()
	ln := serve(t, h.authority.ServerConfig(), func(ctx context.Context, conn *tls.Conn) {
		var req certRequest
		if err := readMessage(conn, requestKind, &req); err != nil {
			t.Errorf("read: %v", err)
		}
		if _, _, err := h.join(ctx, req); err != nil {
			t.Errorf("join: %v", err)
		}
	})
	j := Joiner{FS: fs, Dir: "/agent", Token: token, Name: "kvm1", Config: h.cfg}
	_, err := j.Join(testCtx(t), dial(t, ln.Addr()))
	wantErr(t, err, ErrInterrupted)
	_, err = h.joinFrom(crashfs.New(), token)
	wantErr(t, err, ErrTokenUsed)
	_, err = h.joinFrom(fs.Crash(3), token)
	must(t, err)
}

// A hub that says nothing ends with the caller's context.
func TestSilentHub(t *testing.T) {
	h := newHub(t, newClock(), nil)
	reached := make(chan struct{})
	ln := serve(t, h.authority.ServerConfig(), func(ctx context.Context, conn *tls.Conn) {
		var req certRequest
		if err := readMessage(conn, requestKind, &req); err != nil {
			t.Errorf("read: %v", err)
		}
		close(reached)
		<-ctx.Done()
	})
	soon, stop := context.WithTimeout(testCtx(t), deadline/2) // before anything else ends it
	defer stop()
	ctx, cancel := context.WithCancel(soon)
	defer cancel()
	go func() { <-reached; cancel() }()
	j := Joiner{FS: crashfs.New(), Dir: "/agent", Token: h.token(), Name: "kvm1", Config: h.cfg}
	_, err := j.Join(ctx, dial(t, ln.Addr()))
	wantErr(t, err, ErrInterrupted)
	wantErr(t, err, context.Canceled)
	if soon.Err() != nil {
		t.Fatal("the caller's context did not end it")
	}
}

// A peer that connects and says nothing holds the hub for Timeout only.
func TestSilentAgent(t *testing.T) {
	h := newHub(t, newClock(), nil)
	j := Joiner{Token: h.token(), Config: h.cfg.withDefaults()}
	for _, handshake := range []bool{true, false} {
		short, err := OpenAuthority(h.fs, "/trust", Config{Now: h.clock.Now, Timeout: 20 * time.Millisecond})
		must(t, err)
		r := NewRegistrar(short, h.tokens, nil)
		got := make(chan error, 1)
		ln := serve(t, short.ServerConfig(), func(ctx context.Context, conn *tls.Conn) {
			_, err := r.ServeJoin(ctx, conn)
			got <- err
		})
		conn := dial(t, ln.Addr())
		if handshake {
			_ = tls.Client(conn, j.tlsConfig()).Handshake()
		}
		soon, stop := context.WithTimeout(testCtx(t), deadline/2)
		select {
		case err := <-got:
			wantErr(t, err, context.DeadlineExceeded)
		case <-soon.Done():
			t.Fatal("the timeout did not end it")
		}
		stop()
	}
}

// A length that no message has is refused before anything is read or made for it.
func TestMessagesAreBounded(t *testing.T) {
	h := newHub(t, newClock(), nil)
	j := Joiner{Token: h.token(), Config: h.cfg.withDefaults()}
	conn := tls.Client(dial(t, h.ln.Addr()), j.tlsConfig())
	_, err := conn.Write([]byte{0, 0, 0, 0x40})
	must(t, err)
	var reply certReply
	must(t, readMessage(conn, replyKind, &reply))
	wantErr(t, reply.err(), ErrRequest)
	wantErr(t, <-h.joined, ErrRequest)
	wantErr(t, decode(replyKind, make([]byte, messageLimit+1), &reply), ErrRequest)
}

func TestHubRefusesRequests(t *testing.T) {
	h := newHub(t, newClock(), nil)
	_, key, err := ed25519.GenerateKey(nil)
	must(t, err)
	good, err := newRequest(key)
	must(t, err)
	forged := append([]byte(nil), good...)
	forged[len(forged)-1] ^= 1
	secret := h.token().secret
	for _, tc := range []struct {
		name string
		req  certRequest
		want error
	}{
		{"no name", certRequest{Secret: secret[:], Request: good}, ErrName},
		{"a path as name", certRequest{Secret: secret[:], Name: "../x", Request: good}, ErrName},
		{"short secret", certRequest{Secret: secret[:31], Name: "a", Request: good}, ErrRequest},
		{"no request", certRequest{Secret: secret[:], Name: "a"}, ErrRequest},
		{"a key it does not have", certRequest{Secret: secret[:], Name: "a", Request: forged}, ErrRequest},
		{"all well, as a control", certRequest{Secret: secret[:], Name: "a", Request: good}, nil},
	} {
		j := Joiner{Token: newToken(h.authority.Fingerprint()), Config: h.cfg.withDefaults()}
		conn := tls.Client(dial(t, h.ln.Addr()), j.tlsConfig())
		must(t, writeMessage(conn, requestKind, tc.req))
		var reply certReply
		must(t, readMessage(conn, replyKind, &reply))
		if err := reply.err(); !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
			t.Errorf("%s: %v", tc.name, err)
		}
		if err := <-h.joined; !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
			t.Errorf("%s: the hub logs %v", tc.name, err)
		}
	}
}
