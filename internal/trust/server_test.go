package trust

import (
	"crypto/ed25519"
	"crypto/tls"
	"io"
	"testing"
	"time"
)

func TestRevokedAgentIsRefused(t *testing.T) {
	h := newHub(t, newClock(), nil)
	id, other := h.agent(), h.agent()
	_, err := h.hello(id.ClientConfig())
	must(t, err)
	must(t, h.authority.Revoke(id.Agent().ID))
	_, err = h.hello(id.ClientConfig())
	wantErr(t, err, ErrRefused)
	_, err = h.hello(other.ClientConfig())
	must(t, err)

	again, err := OpenAuthority(h.fs.Crash(7), "/trust", h.cfg)
	must(t, err)
	wantErr(t, again.Check(id.Agent().ID), ErrRevoked)
	must(t, again.Check(other.Agent().ID))
}

func TestExpiredAgentIsRefused(t *testing.T) {
	c := newClock()
	h := newHub(t, c, nil)
	id := h.agent()
	c.add(30 * 24 * time.Hour)
	_, err := h.hello(id.ClientConfig())
	must(t, err) // to the last second
	c.add(time.Second)
	wantErr(t, id.Check(), ErrCertificateExpired)
	_, err = h.hello(id.ClientConfig())
	wantErr(t, err, ErrCertificateExpired)

	// Also by the hub, when the agent does not see it.
	cfg := id.ClientConfig()
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.certificate(), nil }
	_, err = h.hello(cfg)
	wantErr(t, err, ErrCertificateExpired)
}

func TestAuthoritiesDoNotMix(t *testing.T) {
	c := newClock()
	h, other := newHub(t, c, nil), newHub(t, c, nil)
	id := other.agent()
	_, err := h.hello(id.ClientConfig())
	wantErr(t, err, ErrWrongHub) // seen by the agent

	cfg := h.agent().ClientConfig() // believes h, and shows what other made
	cfg.GetClientCertificate = id.ClientConfig().GetClientCertificate
	_, err = h.hello(cfg)
	wantErr(t, err, ErrRefused) // seen by the hub
}

// An agent does not take another agent for the hub.
func TestAgentCannotPlayHub(t *testing.T) {
	h := newHub(t, newClock(), nil)
	id, thief := h.agent(), h.agent()
	addr, rec, done := impostor(t, &tls.Config{Certificates: []tls.Certificate{*thief.certificate()}, NextProtos: []string{ProtoAgent}, Time: h.clock.Now})
	conn := tls.Client(dial(t, addr), id.ClientConfig())
	wantErr(t, Explain(conn.Handshake()), ErrWrongHub)
	if <-done == nil || len(rec.bytes()) > 0 {
		t.Fatal("the impostor was believed")
	}
}

func TestAgentProtocolNeedsCertificate(t *testing.T) {
	h := newHub(t, newClock(), nil)
	id := h.agent()
	for _, protos := range [][]string{{ProtoAgent}, {ProtoJoin, ProtoAgent}, nil} {
		cfg := id.ClientConfig()
		cfg.GetClientCertificate, cfg.NextProtos = nil, protos
		_, err := h.hello(cfg)
		wantErr(t, err, ErrRefused)
	}
	cfg := id.ClientConfig()
	cfg.NextProtos = nil // a certificate, but no protocol
	_, err := h.hello(cfg)
	wantErr(t, err, ErrRefused)
	cfg = id.ClientConfig()
	cfg.NextProtos = []string{"h2"}
	_, err = h.hello(cfg)
	wantErr(t, err, ErrRequest)
	_, err = h.hello(id.ClientConfig())
	must(t, err)
}

func TestJoinProtocolGivesNoAgent(t *testing.T) {
	h := newHub(t, newClock(), nil)
	id := h.agent()
	cfg := id.ClientConfig()
	cfg.NextProtos = []string{ProtoJoin}
	conn := tls.Client(dial(t, h.ln.Addr()), cfg)
	must(t, conn.Handshake())
	if s := conn.ConnectionState(); s.NegotiatedProtocol != ProtoJoin {
		t.Fatalf("protocol %q", s.NegotiatedProtocol)
	}
	if agent, err := PeerAgent(conn); err == nil {
		t.Fatalf("a join is taken for agent %v", agent)
	}
	_ = conn.Close()
	wantErr(t, <-h.joined, io.EOF)
}

func TestOldTLSIsRefused(t *testing.T) {
	h := newHub(t, newClock(), nil)
	id := h.agent()
	for _, proto := range []string{ProtoAgent, ProtoJoin} {
		cfg := id.ClientConfig()
		cfg.MinVersion, cfg.MaxVersion, cfg.NextProtos = tls.VersionTLS12, tls.VersionTLS12, []string{proto}
		_, err := h.hello(cfg)
		wantErr(t, err, ErrRequest)
	}
	// And an agent refuses such a hub.
	cert, err := h.authority.GetCertificate(nil)
	must(t, err)
	addr, _, done := impostor(t, &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{ProtoAgent}, MaxVersion: tls.VersionTLS12, Time: h.clock.Now})
	if tls.Client(dial(t, addr), id.ClientConfig()).Handshake() == nil {
		t.Fatal("TLS 1.2 was spoken")
	}
	if <-done == nil {
		t.Fatal("TLS 1.2 was spoken")
	}
}

// Every connection is checked in full: nothing to resume is given out.
func TestNoSessionIsResumed(t *testing.T) {
	h := newHub(t, newClock(), nil)
	cfg := h.agent().ClientConfig()
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	for range 2 {
		conn := tls.Client(dial(t, h.ln.Addr()), cfg)
		must(t, conn.Handshake())
		var p [64]byte
		_, err := conn.Read(p[:])
		must(t, err)
		if conn.ConnectionState().DidResume {
			t.Fatal("a session was resumed")
		}
		_ = conn.Close()
	}
}

func TestHubsCertificateIsReplacedInTime(t *testing.T) {
	c := newClock()
	a, err := OpenAuthority(newHub(t, c, nil).fs, "/trust", Config{Now: c.Now, Names: []string{"hub.example", "192.0.2.7"}})
	must(t, err)
	get := func() *tls.Certificate {
		cert, err := a.GetCertificate(nil)
		must(t, err)
		for _, name := range []string{ServerName, "hub.example", "192.0.2.7"} {
			must(t, cert.Leaf.VerifyHostname(name))
		}
		return cert
	}
	first := get()
	if get() != first {
		t.Error("made anew each time")
	}
	c.add(3 * 24 * time.Hour)
	second := get()
	if second == first || !second.Leaf.NotAfter.After(first.Leaf.NotAfter) {
		t.Error("not replaced after a third of its life")
	}
	c.add(-365 * 24 * time.Hour)
	if get() == second {
		t.Error("not replaced when the clock was set back")
	}
	// Nothing outlives the authority.
	c.add(a.cert.NotAfter.Sub(c.Now()) - 24*time.Hour)
	public, _, err := ed25519.GenerateKey(nil)
	must(t, err)
	leaf, err := a.issueAgent(Agent{ID: newAgentID(), Name: "a"}, public)
	must(t, err)
	if leaf.NotAfter.After(a.cert.NotAfter) {
		t.Errorf("an agent's certificate outlives the authority: %s, %s", leaf.NotAfter, a.cert.NotAfter)
	}
	c.add(24 * time.Hour)
	_, err = a.GetCertificate(nil)
	wantErr(t, err, ErrAuthorityExpired)
}
