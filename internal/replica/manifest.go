package replica

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/rephub/rephub/internal/vfs"
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

const (
	manifestMagic   = "RHMANIFEST"
	manifestVersion = 1
	manifestLimit   = 16 << 20 // bytes
)

// envelope is the file: the checksum is of the body's compact form.
type envelope struct {
	Magic   string          `json:"magic"`
	Version int             `json:"version"`
	CRC32C  uint32          `json:"crc32c"`
	Body    json.RawMessage `json:"body"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func encodeManifest(m *Manifest) ([]byte, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	env := envelope{Magic: manifestMagic, Version: manifestVersion, CRC32C: crc32.Checksum(body, castagnoli), Body: body}
	p, err := json.MarshalIndent(env, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return append(p, '\n'), nil
}

func decodeManifest(p []byte) (m Manifest, err error) {
	var env envelope
	if err := json.Unmarshal(p, &env); err != nil {
		return m, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if env.Magic != manifestMagic {
		return m, fmt.Errorf("%w: this is no manifest", ErrCorrupt)
	}
	if env.Version != manifestVersion {
		return m, fmt.Errorf("%w: %d", ErrVersion, env.Version)
	}
	var body bytes.Buffer
	if err := json.Compact(&body, env.Body); err != nil {
		return m, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if crc := crc32.Checksum(body.Bytes(), castagnoli); crc != env.CRC32C {
		return m, fmt.Errorf("%w: checksum is %d, %d stored", ErrCorrupt, crc, env.CRC32C)
	}
	if err := json.Unmarshal(env.Body, &m); err != nil {
		return m, fmt.Errorf("%w: %w", ErrCorrupt, err)
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

func readManifest(fs vfs.FS, name string) (Manifest, error) {
	p, err := vfs.ReadFile(fs, name, manifestLimit)
	if err != nil {
		return Manifest{}, err
	}
	m, err := decodeManifest(p)
	if err != nil {
		return m, fmt.Errorf("read %s: %w", name, err)
	}
	return m, nil
}

// Errors callers branch on.
var (
	// ErrCorrupt: the manifest is not what was written.
	ErrCorrupt = errors.New("manifest is damaged")
	// ErrVersion: the manifest is of a version this program does not know.
	ErrVersion = errors.New("manifest version is not supported")
	// ErrNoVolume: the group, or the point, does not have the volume.
	ErrNoVolume = errors.New("no such volume")
	// ErrNoPoint: the seq is no recovery point, or no longer one.
	ErrNoPoint = errors.New("no such recovery point")
	// ErrClosed: the store or the view was closed.
	ErrClosed = errors.New("replica is closed")
)
