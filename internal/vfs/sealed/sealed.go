// Package sealed encodes small records as JSON with a magic, a version and a
// checksum, so that a reader knows what it has before it believes it (law 7).
//
//	{"magic":"rephub-mount","version":1,"crc32c":305419896,"body":{…}}
//
// The checksum is CRC32C of the body's compact form, so a person may indent a
// file without damaging it.
package sealed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/rephub/rephub/internal/vfs"
)

// Errors callers branch on.
var (
	// ErrCorrupt: the bytes are not what was written, or not of this kind.
	ErrCorrupt = errors.New("damaged")
	// ErrVersion: the record is of a version this program does not know.
	ErrVersion = errors.New("version is not supported")
)

// limit of a record in bytes.
const limit = 16 << 20

// Kind is a sort of record.
type Kind struct {
	Magic   string
	Version int
}

type envelope struct {
	Magic   string          `json:"magic"`
	Version int             `json:"version"`
	CRC     uint32          `json:"crc32c"`
	Body    json.RawMessage `json:"body"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode makes a record of v's JSON form.
func (k Kind) Encode(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", k.Magic, err)
	}
	p, err := json.Marshal(envelope{k.Magic, k.Version, crc32.Checksum(body, castagnoli), body})
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", k.Magic, err)
	}
	return append(p, '\n'), nil
}

// Decode reads into v what Encode made. Errors wrap ErrCorrupt or ErrVersion.
func (k Kind) Decode(p []byte, v any) error {
	var e envelope
	if err := json.Unmarshal(p, &e); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if e.Magic != k.Magic {
		return fmt.Errorf("%w: magic is %q, not %q", ErrCorrupt, e.Magic, k.Magic)
	}
	if e.Version != k.Version {
		return fmt.Errorf("%w: it is %d, this rephub knows %d", ErrVersion, e.Version, k.Version)
	}
	var body bytes.Buffer
	if err := json.Compact(&body, e.Body); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if crc := crc32.Checksum(body.Bytes(), castagnoli); crc != e.CRC {
		return fmt.Errorf("%w: checksum is %d, %d is stored", ErrCorrupt, crc, e.CRC)
	}
	if err := json.Unmarshal(e.Body, v); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return nil
}

// Write makes a file of v, durably and all or nothing; only its owner may read it.
func (k Kind) Write(fs vfs.FS, name string, v any) error {
	p, err := k.Encode(v)
	if err != nil {
		return err
	}
	return vfs.WriteFileAtomic(fs, name, p, 0o600)
}

// Read reads into v what Write made. Besides those of Decode, errors are those of the file system.
func (k Kind) Read(fs vfs.FS, name string, v any) error {
	p, err := vfs.ReadFile(fs, name, limit)
	if err == nil {
		err = k.Decode(p, v)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}
