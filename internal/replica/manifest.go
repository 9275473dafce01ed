package replica

import (
	"errors"
	"fmt"
	"slices"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/sealed"
	"github.com/rephub/rephub/journal"
)

// Manifest is what a group's folder must tell beside its journal, so that it
// can be opened without the catalog.
type Manifest struct {
	ID      journal.GroupID `json:"id"`
	Name    string          `json:"name"`
	Volumes []Volume        `json:"volumes,omitempty"`
	// Base: the base images hold all entries up to it.
	Base journal.Seq `json:"base"`
	// Oldest is the oldest point kept. Above Base while the base is on its way
	// there; points below it are gone.
	Oldest journal.Seq `json:"oldest"`
}

// Volume is a volume that has a base image.
type Volume struct {
	ID   journal.VolumeID `json:"id"`
	UUID string           `json:"uuid,omitempty"`
	Name string           `json:"name,omitempty"`
	Size int64            `json:"size"` // bytes, the newest
	// Synced is how far the initial sync has come, in bytes from the start: it
	// resumes there.
	Synced int64 `json:"synced,omitempty"`
}

var manifestKind = sealed.Kind{Magic: "rephub-manifest", Version: 1}

func decodeManifest(p []byte) (m Manifest, err error) {
	if err := manifestKind.Decode(p, &m); err != nil {
		return m, err
	}
	return m, m.check()
}

func (m *Manifest) check() error {
	if m.Oldest < m.Base {
		return fmt.Errorf("%w: oldest point %d is below the base, %d", ErrCorrupt, m.Oldest, m.Base)
	}
	seen := map[journal.VolumeID]bool{}
	for _, v := range m.Volumes {
		if v.ID == 0 || v.Size < 0 || v.Synced < 0 || seen[v.ID] {
			return fmt.Errorf("%w: volume %d of %d bytes", ErrCorrupt, v.ID, v.Size)
		}
		seen[v.ID] = true
	}
	return nil
}

func (m *Manifest) clone() Manifest {
	c := *m
	c.Volumes = slices.Clone(m.Volumes)
	return c
}

func (m *Manifest) volume(id journal.VolumeID) *Volume {
	i := slices.IndexFunc(m.Volumes, func(v Volume) bool { return v.ID == id })
	if i < 0 {
		return nil
	}
	return &m.Volumes[i]
}

func readManifest(fs vfs.FS, name string) (m Manifest, err error) {
	if err := manifestKind.Read(fs, name, &m); err != nil {
		return m, err
	}
	if err := m.check(); err != nil {
		return m, fmt.Errorf("read %s: %w", name, err)
	}
	return m, nil
}

// Errors callers branch on.
var (
	// ErrCorrupt: the manifest is not what was written.
	ErrCorrupt = sealed.ErrCorrupt
	// ErrVersion: the manifest is of a version this program does not know.
	ErrVersion = sealed.ErrVersion
	// ErrNoVolume: the group, or the point, does not have the volume.
	ErrNoVolume = errors.New("no such volume")
	// ErrNoPoint: the seq is no recovery point, or no longer one.
	ErrNoPoint = errors.New("no such recovery point")
	// ErrClosed: the store or the view was closed.
	ErrClosed = errors.New("replica is closed")
)
