package trust

import (
	"context"
	"crypto/x509"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/crashfs"
	"github.com/rephub/rephub/internal/vfs/errorfs"
)

const day = 24 * time.Hour

func TestRenewalFromAThirdOn(t *testing.T) {
	c := newClock()
	h := newHub(t, c, nil)
	fs := crashfs.New()
	id, err := h.joinFrom(fs, h.token())
	must(t, err)
	never := func(context.Context, []byte) ([]byte, error) { t.Error("asked too early"); return nil, nil }
	c.add(9 * day)
	renewed, err := id.RenewIfDue(testCtx(t), never)
	if must(t, err); renewed {
		t.Fatal("renewed too early")
	}
	c.add(id.RenewAt().Sub(c.Now()))
	old := id.certificate().Leaf
	cfg := id.ClientConfig()
	renewed, err = id.RenewIfDue(testCtx(t), h.exchange(id.Agent()))
	if must(t, err); !renewed {
		t.Fatal("not renewed")
	}
	leaf := id.certificate().Leaf
	if !leaf.NotAfter.Equal(c.Now().Add(30*day)) || string(leaf.RawSubjectPublicKeyInfo) == string(old.RawSubjectPublicKeyInfo) {
		t.Fatalf("until %s, with a new key: want 30 days", leaf.NotAfter)
	}
	c.add(25 * day) // the first one would have expired
	if _, err = h.hello(cfg); err != nil {
		t.Fatalf("a config made before the renewal: %v", err)
	}
	again, err := LoadIdentity(fs.Crash(2), "/agent", h.cfg)
	must(t, err)
	got, err := h.hello(again.ClientConfig())
	if must(t, err); got != id.Agent().ID.String() {
		t.Fatalf("renewed as %q", got)
	}
	// Over and over, for years, on what may be one connection.
	for range 100 {
		renewed, err = id.RenewIfDue(testCtx(t), h.exchange(id.Agent()))
		if must(t, err); !renewed {
			t.Fatal("not renewed")
		}
		c.add(20 * day)
	}
}

func TestRenewalIsRefused(t *testing.T) {
	c := newClock()
	h, other := newHub(t, c, nil), newHub(t, c, nil)
	id, thief := h.agent(), h.agent()
	c.add(15 * day)
	check := func(what string, want error, x func(context.Context, []byte) ([]byte, error)) {
		t.Helper()
		before := id.certificate()
		if renewed, err := id.RenewIfDue(testCtx(t), x); renewed || !errors.Is(err, want) {
			t.Errorf("%s: %v, %v", what, renewed, err)
		}
		if id.certificate() != before {
			t.Errorf("%s: the certificate has changed", what)
		}
	}
	check("of another agent", ErrRequest, h.exchange(thief.Agent()))
	check("by another hub", ErrRequest, other.exchange(id.Agent()))
	check("garbage", ErrRequest, func(context.Context, []byte) ([]byte, error) { return []byte("{}"), nil })
	check("no connection", syscall.EPIPE, func(context.Context, []byte) ([]byte, error) { return nil, syscall.EPIPE })
	check("a certificate that is another's", ErrRequest, func(context.Context, []byte) ([]byte, error) {
		return encode(replyKind, certReply{Certificate: thief.certificate().Leaf.Raw})
	})
	check("our key, another name", ErrRequest, func(_ context.Context, p []byte) ([]byte, error) {
		var req certRequest
		must(t, decode(requestKind, p, &req))
		public, err := requestedKey(req.Request)
		must(t, err)
		cert, err := h.authority.issueAgent(thief.Agent(), public)
		must(t, err)
		return encode(replyKind, certReply{Certificate: cert.Raw})
	})
	check("our key, another authority", ErrRequest, func(_ context.Context, p []byte) ([]byte, error) {
		var req certRequest
		must(t, decode(requestKind, p, &req))
		public, err := requestedKey(req.Request)
		must(t, err)
		cert, err := other.authority.issueAgent(id.Agent(), public)
		must(t, err)
		return encode(replyKind, certReply{Certificate: cert.Raw})
	})
	must(t, h.authority.Revoke(id.Agent().ID))
	check("revoked", ErrRevoked, h.exchange(id.Agent()))

	// Expired: seen by the agent without asking, and by the hub.
	late := thief
	var asked []byte
	_, err := late.RenewIfDue(testCtx(t), func(_ context.Context, p []byte) ([]byte, error) { asked = p; return nil, syscall.EPIPE })
	wantErr(t, err, syscall.EPIPE)
	c.add(15*day + time.Second)
	_, err = late.RenewIfDue(testCtx(t), nil)
	wantErr(t, err, ErrCertificateExpired)
	reply, _, err := h.Renew(late.Agent(), asked)
	wantErr(t, err, ErrCertificateExpired)
	var answer certReply
	must(t, decode(replyKind, reply, &answer))
	wantErr(t, answer.err(), ErrCertificateExpired)

	// The hub's own certificate is no agent's.
	own, err := h.authority.GetCertificate(nil)
	must(t, err)
	var req certRequest
	must(t, decode(requestKind, asked, &req))
	for _, cert := range [][]byte{own.Leaf.Raw, h.authority.cert.Raw, nil} {
		req.Certificate = cert
		p, err := encode(requestKind, req)
		must(t, err)
		_, _, err = h.Renew(late.Agent(), p)
		wantErr(t, err, ErrRequest)
	}
}

// Power is lost at every sync of a join and of a renewal. What is there then is
// no identity, or one that works; and where there is none, the same token
// brings one.
func TestPowerLossWhileJoiningAndRenewing(t *testing.T) {
	c := newClock()
	h := newHub(t, c, nil)
	fs, token := crashfs.New(), h.token()
	var shots []*crashfs.FS
	fs.OnSync(func(string) error {
		for i := range uint64(4) {
			shots = append(shots, fs.Crash(uint64(len(shots))<<2|i))
		}
		return nil
	}, false)
	id, err := h.joinFrom(fs, token)
	must(t, err)
	<-h.joined
	joinShots, none := len(shots), 0
	keyed := func(fs vfs.FS) bool { _, err := fs.Stat("/agent/" + joiningFile); return err == nil }
	for i, shot := range shots {
		was, err := LoadIdentity(shot, "/agent", h.cfg)
		if errors.Is(err, ErrNoIdentity) {
			none++
			had := keyed(shot)
			was, err = h.joinFrom(shot, token)
			<-h.joined
			if !had && errors.Is(err, ErrTokenUsed) {
				continue // the crash came before the key was kept, here after the token was used: see below
			}
		}
		must(t, err)
		got, err := h.hello(was.ClientConfig())
		if must(t, err); got != id.Agent().ID.String() {
			t.Fatalf("crash %d: joined as %q", i, got)
		}
	}
	if none == 0 || none == joinShots {
		t.Fatalf("%d of %d crashes left no identity", none, joinShots)
	}

	shots = nil
	c.add(15 * day)
	renewed, err := id.RenewIfDue(testCtx(t), h.exchange(id.Agent()))
	if must(t, err); !renewed {
		t.Fatal("not renewed")
	}
	old := 0
	for i, shot := range shots {
		was, err := LoadIdentity(shot, "/agent", h.cfg)
		must(t, err)
		if !was.certificate().Leaf.Equal(id.certificate().Leaf) {
			old++
		}
		got, err := h.hello(was.ClientConfig())
		if must(t, err); got != id.Agent().ID.String() {
			t.Fatalf("crash %d: renewed as %q", i, got)
		}
	}
	if old == 0 {
		t.Fatal("no crash came before the new certificate was there")
	}
}

// Power is lost at the moment the token is used: by then the key is durable.
func TestKeyIsDurableBeforeTheTokenIsUsed(t *testing.T) {
	fs := crashfs.New()
	var shots []*crashfs.FS
	h := newHub(t, newClock(), func(context.Context, Agent) error {
		for i := range uint64(16) {
			shots = append(shots, fs.Crash(i))
		}
		return nil
	})
	token := h.token()
	id, err := h.joinFrom(fs, token)
	must(t, err)
	<-h.joined
	for _, shot := range shots[:16] {
		_, err := LoadIdentity(shot, "/agent", h.cfg)
		wantErr(t, err, ErrNoIdentity)
		again, err := h.joinFrom(shot, token)
		must(t, err)
		<-h.joined
		if again.Agent() != id.Agent() {
			t.Fatalf("%v became %v", id.Agent(), again.Agent())
		}
	}
}

// Every I/O of a join fails once; the next attempt with the same token works.
func TestJoinOnAFailingDisk(t *testing.T) {
	h := newHub(t, newClock(), nil)
	for n := int64(1); ; n++ {
		decide, fired := errorfs.Nth(n, errorfs.All, syscall.ENOSPC)
		fs := errorfs.New(crashfs.New(), decide)
		token := h.token()
		_, err := h.joinFrom(fs, token)
		if !fired() {
			must(t, err)
			return
		}
		if err != nil {
			wantErr(t, err, syscall.ENOSPC)
			if _, err = h.joinFrom(fs, token); err != nil {
				t.Fatalf("I/O %d failed once: %v", n, err)
			}
		}
	}
}

func TestDamagedIdentity(t *testing.T) {
	h := newHub(t, newClock(), nil)
	fs := crashfs.New()
	id, err := h.joinFrom(fs, h.token())
	must(t, err)
	other := h.agent()
	key, err := x509.MarshalPKCS8PrivateKey(id.certificate().PrivateKey)
	must(t, err)
	for _, rec := range []identityRecord{
		{},
		{Key: key, Certificate: other.certificate().Leaf.Raw, Authority: id.ca.Raw},
		{Key: key, Certificate: id.certificate().Leaf.Raw, Authority: id.certificate().Leaf.Raw},
		{Key: key, Certificate: id.ca.Raw, Authority: id.ca.Raw},
	} {
		must(t, identityKind.Write(fs, "/agent/"+identityFile, rec))
		_, err := LoadIdentity(fs, "/agent", h.cfg)
		wantErr(t, err, ErrIdentity)
	}
	must(t, vfs.WriteFileAtomic(fs, "/agent/"+identityFile, []byte("{"), 0o600))
	_, err = LoadIdentity(fs, "/agent", h.cfg)
	wantErr(t, err, ErrIdentity)
	_, err = h.joinFrom(fs, h.token())
	must(t, err)
}
