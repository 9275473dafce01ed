package trust

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/sealed"
)

// identityFile holds all that an agent is, so that it is there whole or not at all.
const identityFile = "identity.json"

var identityKind = sealed.Kind{Magic: "rephub-identity", Version: 1}

type identityRecord struct {
	Key         []byte `json:"key"`             // PKCS #8
	Certificate []byte `json:"certificate"`     // DER
	Authority   []byte `json:"authority"`       // DER
	Token       string `json:"token,omitempty"` // id of the one that it was got with
}

// Identity is an agent's key and certificate, and the authority it believes.
// Its methods may be called concurrently.
type Identity struct {
	fs    vfs.FS
	dir   string
	cfg   Config
	agent Agent
	ca    *x509.Certificate
	token string // id of the one that it was got with

	renewing sync.Mutex
	current  struct {
		sync.Mutex
		cert *tls.Certificate
	}
}

// LoadIdentity reads what Join stored in dir. Errors wrap ErrNoIdentity or
// ErrIdentity where they apply. An expired identity is no error here: it still
// tells who the agent was; see Check.
func LoadIdentity(fs vfs.FS, dir string, cfg Config) (*Identity, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	var rec identityRecord
	name := filepath.Join(dir, identityFile)
	err := identityKind.Read(fs, name, &rec)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%w (%w)", ErrNoIdentity, err)
	case errors.Is(err, sealed.ErrCorrupt):
		return nil, fmt.Errorf("%w (%w)", ErrIdentity, err)
	case err != nil:
		return nil, err
	}
	id, err := newIdentity(fs, dir, cfg, rec)
	if err != nil {
		return nil, fmt.Errorf("%w (%s: %w)", ErrIdentity, name, err)
	}
	return id, nil
}

// newIdentity checks that everything belongs together; the time is not looked at.
func newIdentity(fs vfs.FS, dir string, cfg Config, rec identityRecord) (*Identity, error) {
	ca, err := x509.ParseCertificate(rec.Authority)
	if err != nil {
		return nil, fmt.Errorf("parse the authority: %w", err)
	}
	if !ca.IsCA { // a certificate in the pool of roots would vouch for itself
		return nil, errors.New("the authority's certificate is not one of an authority")
	}
	id := &Identity{fs: fs, dir: dir, cfg: cfg.withDefaults(), ca: ca, token: rec.Token}
	id.current.cert, id.agent, err = id.accept(rec.Key, rec.Certificate)
	return id, err
}

// accept reads a certificate that the authority made for an agent and its key.
func (id *Identity) accept(keyDER, certDER []byte) (*tls.Certificate, Agent, error) {
	key, leaf, err := parsePair(keyDER, certDER)
	if err != nil {
		return nil, Agent{}, err
	}
	if err := verify(leaf, id.ca, leaf.NotAfter, x509.ExtKeyUsageClientAuth, ""); err != nil {
		return nil, Agent{}, err
	}
	agent, err := agentOf(leaf)
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, agent, err
}

func (id *Identity) save(keyDER, certDER []byte) error {
	rec := identityRecord{keyDER, certDER, id.ca.Raw, id.token}
	if err := identityKind.Write(id.fs, filepath.Join(id.dir, identityFile), rec); err != nil {
		return fmt.Errorf("store the agent's identity: %w", err)
	}
	return nil
}

// Agent is who this is.
func (id *Identity) Agent() Agent { return id.agent }

// Authority names the hub's authority.
func (id *Identity) Authority() Fingerprint { return fingerprint(id.ca) }

// JoinedWith says whether this identity was got with the token: then the token
// is of no more use.
func (id *Identity) JoinedWith(t Token) bool { return id.token == t.ID().String() }

func (id *Identity) certificate() *tls.Certificate {
	id.current.Lock()
	defer id.current.Unlock()
	return id.current.cert
}

// Check returns ErrCertificateExpired if the hub would refuse the certificate for its age.
func (id *Identity) Check() error {
	leaf := id.certificate().Leaf
	if id.cfg.Now().After(leaf.NotAfter) {
		return fmt.Errorf("%w (%s)", ErrCertificateExpired, leaf.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// ClientConfig is for connections to the hub with ProtoAgent. It uses the
// newest certificate there is, for as long as it is used itself.
func (id *Identity) ClientConfig() *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(id.ca)
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    roots,
		ServerName: ServerName,
		NextProtos: []string{ProtoAgent},
		Time:       id.cfg.Now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if err := id.Check(); err != nil {
				return nil, err
			}
			return id.certificate(), nil
		},
	}
}

// RenewAt is when RenewIfDue will do something.
func (id *Identity) RenewAt() time.Time { return due(id.certificate().Leaf) }

// RenewIfDue replaces key and certificate when a third of the certificate's
// life is over. exchange carries a request of at most 16 KiB over the agent's
// connection to Registrar.Renew and brings its reply. The new identity is
// durable before it is used; after an error the old one goes on. Errors wrap
// ErrCertificateExpired and ErrRevoked where they apply; others may pass.
func (id *Identity) RenewIfDue(ctx context.Context, exchange func(ctx context.Context, request []byte) ([]byte, error)) (renewed bool, err error) {
	id.renewing.Lock()
	defer id.renewing.Unlock()
	if id.cfg.Now().Before(id.RenewAt()) {
		return false, nil
	}
	if err := id.Check(); err != nil {
		return false, err
	}
	if err := id.renew(ctx, exchange); err != nil {
		return false, fmt.Errorf("renew the agent's certificate: %w", err)
	}
	return true, nil
}

func (id *Identity) renew(ctx context.Context, exchange func(context.Context, []byte) ([]byte, error)) error {
	keyDER, csr, err := newKey()
	if err != nil {
		return err
	}
	request, err := encode(requestKind, certRequest{Certificate: id.certificate().Leaf.Raw, Request: csr})
	if err != nil {
		return err
	}
	answer, err := exchange(ctx, request)
	if err != nil {
		return err
	}
	var reply certReply
	if err := decode(replyKind, answer, &reply); err != nil {
		return err
	}
	if err := reply.err(); err != nil {
		return err
	}
	cert, agent, err := id.accept(keyDER, reply.Certificate)
	if err == nil && agent.ID != id.agent.ID {
		err = fmt.Errorf("a certificate for agent %s", agent.ID)
	}
	if err == nil && !bytes.Equal(cert.Leaf.RawIssuer, id.ca.RawSubject) {
		err = errors.New("a certificate of another issuer")
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if err := id.save(keyDER, reply.Certificate); err != nil {
		return err
	}
	id.current.Lock()
	defer id.current.Unlock()
	id.current.cert = cert
	return nil
}

// newKey makes a key (PKCS #8) and the request for its certificate.
func newKey() (keyDER, csr []byte, err error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make the agent's key: %w", err)
	}
	if keyDER, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		return nil, nil, fmt.Errorf("encode the agent's key: %w", err)
	}
	csr, err = newRequest(key)
	return keyDER, csr, err
}
