package trust

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/sealed"
)

// joiningFile holds the key of a join that is under way: with it the same
// token can be shown again when the answer, or this host's power, was lost.
const joiningFile = "joining.json"

var joiningKind = sealed.Kind{Magic: "rephub-joining", Version: 1}

type joiningRecord struct {
	Token string `json:"token"` // its id, not its secret
	Key   []byte `json:"key"`   // PKCS #8
}

// Joiner is the agent's part in joining.
type Joiner struct {
	FS    vfs.FS
	Dir   string // of the identity; made if it is not there
	Token Token
	Name  string // for people; often the host's name
	Config
}

// Join gets an identity over a new connection to the hub's agents' port, and
// closes the connection. It takes no longer than Config.Timeout. Nothing of
// the token is sent before the peer has proved to be of the token's authority.
// On return the identity is durable, in place of the one that was there. After
// any error the old one is untouched, and the same token may be used again
// from this host until it expires; one process at a time.
func (j Joiner) Join(ctx context.Context, conn net.Conn) (*Identity, error) {
	defer conn.Close()
	if err := j.Validate(); err != nil {
		return nil, err
	}
	j.Config = j.withDefaults()
	if err := ValidateName(j.Name); err != nil {
		return nil, err
	}
	key, err := j.key()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, j.Timeout)
	defer cancel()
	defer cutWhenDone(ctx, conn)()
	cert, ca, err := j.exchange(ctx, conn, key)
	if err != nil {
		return nil, fmt.Errorf("join the hub: %w", because(ctx, err))
	}
	id, err := newIdentity(j.FS, j.Dir, j.Config, identityRecord{key, cert, ca.Raw, j.Token.ID().String()})
	if err != nil {
		return nil, fmt.Errorf("join the hub: %w: %w", ErrRequest, err)
	}
	if err := id.save(key, cert); err != nil {
		return nil, err
	}
	// What is left behind by an error here does no harm.
	_ = j.FS.Remove(filepath.Join(j.Dir, joiningFile))
	return id, nil
}

// key is the one this token was shown with before, or a new one. It is durable
// before anyone hears of it.
func (j Joiner) key() ([]byte, error) {
	name := filepath.Join(j.Dir, joiningFile)
	token := j.Token.ID().String()
	var rec joiningRecord
	err := joiningKind.Read(j.FS, name, &rec)
	switch {
	case err == nil && rec.Token == token:
		return rec.Key, nil
	case err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, sealed.ErrCorrupt) && !errors.Is(err, sealed.ErrVersion):
		return nil, err
	}
	if err := j.FS.MkdirAll(j.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", j.Dir, err)
	}
	if err := j.FS.SyncDir(filepath.Dir(j.Dir)); err != nil {
		return nil, fmt.Errorf("make %s: %w", j.Dir, err)
	}
	key, _, err := newKey()
	if err != nil {
		return nil, err
	}
	if err := joiningKind.Write(j.FS, name, joiningRecord{token, key}); err != nil {
		return nil, fmt.Errorf("store the agent's key: %w", err)
	}
	return key, nil
}

func (j Joiner) exchange(ctx context.Context, conn net.Conn, keyDER []byte) (cert []byte, ca *x509.Certificate, err error) {
	key, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return nil, nil, fmt.Errorf("parse the agent's key: %w", err)
	}
	signer, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("parse the agent's key: a %T", key)
	}
	csr, err := newRequest(signer)
	if err != nil {
		return nil, nil, err
	}
	t := tls.Client(conn, j.tlsConfig())
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, nil, Explain(err)
	}
	state := t.ConnectionState()
	if ca, err = j.hub(state); err != nil {
		return nil, nil, err
	}
	if state.NegotiatedProtocol != ProtoJoin {
		return nil, nil, fmt.Errorf("%w: protocol is %q", ErrRequest, state.NegotiatedProtocol)
	}
	req := certRequest{Secret: j.Token.secret[:], Name: j.Name, Request: csr}
	if err := writeMessage(t, requestKind, req); err != nil {
		return nil, nil, fmt.Errorf("%w (%w)", ErrInterrupted, err)
	}
	var reply certReply
	if err := readMessage(t, replyKind, &reply); err != nil {
		return nil, nil, fmt.Errorf("%w (%w)", ErrInterrupted, err)
	}
	return reply.Certificate, ca, reply.err()
}

// tlsConfig checks the peer itself: what to believe is not a known authority
// but a fingerprint of one that the peer brings along.
func (j Joiner) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		ServerName:         ServerName,
		NextProtos:         []string{ProtoJoin},
		Time:               j.Now,
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := j.hub(s)
			return err
		},
	}
}

// hub finds the token's authority in the peer's chain and checks that it made
// the peer's certificate, for a hub, good now.
func (j Joiner) hub(s tls.ConnectionState) (*x509.Certificate, error) {
	for _, ca := range s.PeerCertificates[min(1, len(s.PeerCertificates)):] {
		if fingerprint(ca) != j.Token.authority {
			continue
		}
		err := verify(s.PeerCertificates[0], ca, j.Now(), x509.ExtKeyUsageServerAuth, ServerName)
		switch {
		case expired(err):
			return nil, fmt.Errorf("%w (%w)", ErrClock, err)
		case err != nil:
			return nil, fmt.Errorf("%w (%w)", ErrWrongHub, err)
		}
		return ca, nil
	}
	return nil, fmt.Errorf("%w (it is not of the authority that made the token)", ErrWrongHub)
}
