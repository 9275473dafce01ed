package recovery

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/rephub/rephub/internal/vfs"
)

// mountFile is the name of a mount's record in its folder: a mount exists while
// this file does.
const mountFile = "mount.json"

const (
	recordMagic   = "rephub-mount"
	recordVersion = 1
	recordLimit   = 4 << 20 // bytes
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// envelope is the file around a Record. CRC is CRC32C over the record's compact JSON.
type envelope struct {
	Magic   string          `json:"magic"`
	Version int             `json:"version"`
	CRC     string          `json:"crc32c"` // 8 hex digits
	Record  json.RawMessage `json:"record"`
}

// encodeRecord makes the content of mount.json.
func encodeRecord(r Record) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode mount record: %w", err)
	}
	data, err := json.MarshalIndent(envelope{recordMagic, recordVersion, checksum(body), body}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode mount record: %w", err)
	}
	return append(data, '\n'), nil
}

// decodeRecord reads the content of mount.json; name stands in errors.
func decodeRecord(name string, data []byte) (Record, error) {
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return Record{}, fmt.Errorf("read %s: %w: %v", name, ErrCorrupt, err)
	}
	if e.Magic != recordMagic {
		return Record{}, fmt.Errorf("read %s: %w: not a mount record", name, ErrCorrupt)
	}
	if e.Version != recordVersion {
		return Record{}, fmt.Errorf("read %s: %w: %d", name, ErrVersion, e.Version)
	}
	var body bytes.Buffer
	if err := json.Compact(&body, e.Record); err != nil || checksum(body.Bytes()) != e.CRC {
		return Record{}, fmt.Errorf("read %s: %w: checksum does not match", name, ErrCorrupt)
	}
	var r Record
	if err := json.Unmarshal(e.Record, &r); err != nil {
		return Record{}, fmt.Errorf("read %s: %w: %v", name, ErrCorrupt, err)
	}
	return r, r.validate(name)
}

// validate keeps what a folder's name and an export's name are made of harmless.
func (r *Record) validate(name string) error {
	if r.ID == "" || strings.ContainsAny(r.ID, "/\x00") || strings.HasPrefix(r.ID, ".") {
		return fmt.Errorf("read %s: %w: bad id %q", name, ErrCorrupt, r.ID)
	}
	for _, v := range r.Volumes {
		if v.Name == "" || v.Size < 0 {
			return fmt.Errorf("read %s: %w: bad volume %q of %d bytes", name, ErrCorrupt, v.Name, v.Size)
		}
	}
	return nil
}

func checksum(p []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(p, castagnoli)) }

// loadRecord reads the record in a mount's folder.
func loadRecord(fs vfs.FS, dir string) (Record, error) {
	name := dir + "/" + mountFile
	data, err := vfs.ReadFile(fs, name, recordLimit)
	if err != nil {
		return Record{}, err
	}
	return decodeRecord(name, data)
}

// storeRecord makes the record durable in a mount's folder.
func storeRecord(fs vfs.FS, dir string, r Record) error {
	data, err := encodeRecord(r)
	if err != nil {
		return err
	}
	return vfs.WriteFileAtomic(fs, dir+"/"+mountFile, data, 0o600)
}
