package trust

import (
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

// The files of an authority, in a directory of their own. stateFile is written
// first without a fingerprint, then authorityFile, then stateFile with it: so
// an authority that was never finished (nobody can trust it yet) can be told
// from one that was lost, which is never replaced silently.
const (
	authorityFile = "authority.json" // key and certificate; never changes
	stateFile     = "revoked.json"   // which authority it is, and whom it has shut out
)

var (
	authorityKind = sealed.Kind{Magic: "rephub-authority", Version: 1}
	stateKind     = sealed.Kind{Magic: "rephub-revoked", Version: 1}
)

type authorityRecord struct {
	Key         []byte `json:"key"`         // PKCS #8
	Certificate []byte `json:"certificate"` // DER
}

type stateRecord struct {
	Authority *Fingerprint          `json:"authority"` // nil while it is being made
	Revoked   map[AgentID]time.Time `json:"revoked"`
}

// Authority is the hub's certificate authority. Its methods may be called
// concurrently.
type Authority struct {
	fs   vfs.FS
	dir  string
	cfg  Config
	key  ed25519.PrivateKey
	cert *x509.Certificate

	revoked struct {
		sync.RWMutex
		agents map[AgentID]time.Time
	}
	saving sync.Mutex // one writer of stateFile

	server struct {
		sync.Mutex
		cert *tls.Certificate
	}
}

// OpenAuthority opens the authority in dir, or makes it if there never was one
// and cfg.MayMake agrees; then it is durable on return. One process at a time. Errors wrap
// ErrAuthority when what is there cannot be used.
func OpenAuthority(fs vfs.FS, dir string, cfg Config) (*Authority, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	a := &Authority{fs: fs, dir: dir, cfg: cfg.withDefaults()}
	var state stateRecord
	hasState, err := a.read(stateKind, stateFile, &state)
	if err != nil {
		return nil, err
	}
	var rec authorityRecord
	hasRecord, err := a.read(authorityKind, authorityFile, &rec)
	if err != nil {
		return nil, err
	}
	switch {
	case hasRecord && hasState:
		err = a.load(rec, state)
	case hasRecord:
		err = fmt.Errorf("%w (%s is gone, and with it who was revoked)", ErrAuthority, a.path(stateFile))
	case hasState && state.Authority != nil:
		err = fmt.Errorf("%w (%s is gone)", ErrAuthority, a.path(authorityFile))
	default:
		if err = a.cfg.MayMake(); err == nil {
			err = a.create()
		}
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

func (a *Authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *Authority) read(kind sealed.Kind, name string, v any) (there bool, err error) {
	err = kind.Read(a.fs, a.path(name), v)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, nil
	case errors.Is(err, sealed.ErrCorrupt):
		return false, fmt.Errorf("%w (%w)", ErrAuthority, err)
	}
	return err == nil, err
}

func (a *Authority) load(rec authorityRecord, state stateRecord) error {
	var err error
	a.key, a.cert, err = parsePair(rec.Key, rec.Certificate)
	if err == nil && (!a.cert.IsCA || a.cert.CheckSignature(a.cert.SignatureAlgorithm, a.cert.RawTBSCertificate, a.cert.Signature) != nil) {
		err = errors.New("the certificate is not an authority's")
	}
	if err != nil {
		return fmt.Errorf("%w (%s: %w)", ErrAuthority, a.path(authorityFile), err)
	}
	a.revoked.agents = state.Revoked
	if a.revoked.agents == nil {
		a.revoked.agents = map[AgentID]time.Time{}
	}
	if state.Authority == nil { // power went before the last write of create
		return a.saveState()
	}
	if *state.Authority != a.Fingerprint() {
		return fmt.Errorf("%w (%s is of another authority)", ErrAuthority, a.path(stateFile))
	}
	return nil
}

func (a *Authority) create() error {
	if err := a.fs.MkdirAll(a.dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", a.dir, err)
	}
	if err := a.fs.SyncDir(filepath.Dir(a.dir)); err != nil {
		return fmt.Errorf("make %s: %w", a.dir, err)
	}
	if err := stateKind.Write(a.fs, a.path(stateFile), stateRecord{}); err != nil {
		return fmt.Errorf("make the authority: %w", err)
	}
	var err error
	if a.key, a.cert, err = newSelfSigned(a.cfg.Now(), a.cfg.AuthorityLife); err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return fmt.Errorf("encode the authority's key: %w", err)
	}
	if err := authorityKind.Write(a.fs, a.path(authorityFile), authorityRecord{key, a.cert.Raw}); err != nil {
		return fmt.Errorf("make the authority: %w", err)
	}
	a.revoked.agents = map[AgentID]time.Time{}
	return a.saveState()
}

// saveState makes what is revoked durable.
func (a *Authority) saveState() error {
	a.saving.Lock()
	defer a.saving.Unlock()
	fp := a.Fingerprint()
	a.revoked.RLock()
	p, err := stateKind.Encode(stateRecord{&fp, a.revoked.agents})
	a.revoked.RUnlock()
	if err == nil {
		err = vfs.WriteFileAtomic(a.fs, a.path(stateFile), p, 0o600)
	}
	if err != nil {
		return fmt.Errorf("save who is revoked: %w", err)
	}
	return nil
}

// Fingerprint names the authority.
func (a *Authority) Fingerprint() Fingerprint { return fingerprint(a.cert) }

// Revoke shuts an agent out, for good: no new connection, no renewal. It holds
// at once, and durably if the error is nil; otherwise call it again. Ending
// the agent's present connections is the caller's part.
func (a *Authority) Revoke(id AgentID) error {
	if id.IsZero() {
		return errors.New("revoke an agent: no id")
	}
	a.revoked.Lock()
	if _, ok := a.revoked.agents[id]; !ok {
		a.revoked.agents[id] = a.cfg.Now().UTC()
	}
	a.revoked.Unlock()
	return a.saveState()
}

// Check returns ErrRevoked if the agent is.
func (a *Authority) Check(id AgentID) error {
	a.revoked.RLock()
	defer a.revoked.RUnlock()
	if at, ok := a.revoked.agents[id]; ok {
		return fmt.Errorf("%w (agent %s, revoked %s)", ErrRevoked, id, at.Format(time.RFC3339))
	}
	return nil
}

// GetCertificate is the hub's certificate, for a tls.Config: it is made when
// first needed and again when a third of its life is over. Its key is only in memory.
func (a *Authority) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	a.server.Lock()
	defer a.server.Unlock()
	now := a.cfg.Now()
	if c := a.server.cert; c != nil && now.Before(due(c.Leaf)) && !now.Before(c.Leaf.NotBefore) {
		return c, nil
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the hub's key: %w", err)
	}
	leaf, err := a.issueServer(public)
	if err != nil {
		return nil, err
	}
	// The authority goes along: who joins knows only its fingerprint.
	a.server.cert = &tls.Certificate{Certificate: [][]byte{leaf.Raw, a.cert.Raw}, PrivateKey: key, Leaf: leaf}
	return a.server.cert, nil
}
