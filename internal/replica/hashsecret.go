package replica

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"

	"github.com/rephub/rephub/internal/digest"
	"github.com/rephub/rephub/internal/vfs/sealed"
)

const (
	hashesName = "hashes"
	secretName = "secret.json"
)

var secretKind = sealed.Kind{Magic: "rephub-hash-secret", Version: 1}

// hashSecret is the body of the secret's file.
type hashSecret struct {
	Secret []byte `json:"secret"`
}

// hashSecret reads or makes the group's secret. One that is damaged is replaced;
// what was hashed with it is worth nothing then.
func (s *Store) hashSecret() (digest.Secret, error) {
	s.hashing.Lock()
	defer s.hashing.Unlock()
	dir := filepath.Join(s.dir, hashesName)
	name := filepath.Join(dir, secretName)
	var body hashSecret
	err := secretKind.Read(s.fs, name, &body)
	if err == nil && len(body.Secret) == len(digest.Secret{}) {
		return digest.Secret(body.Secret), nil
	}
	switch {
	case err == nil, errors.Is(err, ErrCorrupt):
		s.cfg.Logger.Warn("the secret of the hashes is damaged: a new one is made", "file", name, "err", err)
	case !errors.Is(err, os.ErrNotExist):
		return digest.Secret{}, err
	}
	if err := s.fs.MkdirAll(dir, 0o700); err != nil {
		return digest.Secret{}, err
	}
	if err := s.fs.SyncDir(s.dir); err != nil {
		return digest.Secret{}, err
	}
	body.Secret = make([]byte, len(digest.Secret{}))
	if _, err := rand.Read(body.Secret); err != nil {
		return digest.Secret{}, err
	}
	if err := secretKind.Write(s.fs, name, body); err != nil {
		return digest.Secret{}, err
	}
	return digest.Secret(body.Secret), nil
}
