package hub

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/dirlock"
	"github.com/rephub/rephub/internal/vfs/sealed"
)

// dataDir is a data directory that is ours alone.
//
//	lock          flock'ed by the hub that uses it; holds its process id
//	hub.json      what this is, and the hub's identity
//	catalog/      the catalog's server
//	authority/    what agents trust; see trust.Authority
//	keeper/       the tap keeper's sockets
//	freezes/      notes of guests that are frozen for a moment
//	groups/NAME/  a group: record, journal, base images
//	mounts/ID/    a mount: record, scratch layers
//	reports/      of failover tests; see proof.Store
type dataDir struct {
	path string
	id   string // of the hub
	lock *os.File
}

var identityKind = sealed.Kind{Magic: "rephub-data", Version: 1}

// identity is the content of hub.json.
type identity struct {
	ID string `json:"id"`
}

// openData makes or opens a data directory and locks it.
func openData(path string) (d *dataDir, err error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	lock, err := lockData(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	d = &dataDir{path: path, lock: lock}
	if d.id, err = d.identify(); err != nil {
		return nil, err
	}
	for _, dir := range []string{"groups", "mounts", "catalog"} {
		if err := os.MkdirAll(d.join(dir), 0o700); err != nil {
			return nil, fmt.Errorf("make data directory: %w", err)
		}
	}
	if err := vfs.OS().SyncDir(path); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	return d, nil
}

func (d *dataDir) join(elem ...string) string {
	return filepath.Join(append([]string{d.path}, elem...)...)
}

// Close lets another hub have the directory.
func (d *dataDir) Close() error { return d.lock.Close() }

func lockData(path string) (*os.File, error) {
	lock, err := dirlock.Lock(path)
	var used *dirlock.InUseError
	if !errors.As(err, &used) {
		return lock, err
	}
	who := ""
	if used.Owner != "" {
		who = " (process " + used.Owner + ")"
	}
	return nil, api.Errorf(api.CodeConflict, "data directory %s is in use by another hub%s", path, who).
		WithHint("stop that hub, or choose another directory with --data")
}

// identify reads hub.json, or makes it in an empty directory.
func (d *dataDir) identify() (string, error) {
	name := d.join("hub.json")
	var id identity
	err := identityKind.Read(vfs.OS(), name, &id)
	switch {
	case errors.Is(err, os.ErrNotExist):
		id.ID = uuid.NewString()
		if err := identityKind.Write(vfs.OS(), name, id); err != nil {
			return "", fmt.Errorf("write %s: %w", name, err)
		}
	case errors.Is(err, sealed.ErrVersion):
		return "", api.Errorf(api.CodeConflict, "data directory %s: %v", d.path, err).WithHint("use the rephub that wrote it, or a newer one")
	case errors.Is(err, sealed.ErrCorrupt), err == nil && id.ID == "":
		return "", api.Errorf(api.CodeConflict, "data directory %s: hub.json is damaged, or not a hub's: %v", d.path, err).
			WithHint("is it the right directory? if so, put hub.json back from a copy; the groups in it are unharmed")
	case err != nil:
		return "", err
	}
	return id.ID, nil
}
