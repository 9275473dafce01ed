package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"

	"github.com/rephub/rephub/internal/vfs"
)

const (
	recordMagic   = "rephub-group"
	recordVersion = 1
	recordFile    = "group.json"
	// removedPrefix marks the folder of a group that is being removed.
	removedPrefix = ".removed-"
)

// recordForm is the content of group.json.
type recordForm struct {
	Magic   string          `json:"magic"`
	Version int             `json:"version"`
	CRC     uint32          `json:"crc32c"` // of Group's bytes
	Group   json.RawMessage `json:"group"`
}

// writeRecord makes the record beside a group's journal durable.
func writeRecord(dir string, r groupRecord) error {
	name := filepath.Join(dir, recordFile)
	body, err := json.Marshal(r)
	if err == nil {
		form := recordForm{Magic: recordMagic, Version: recordVersion, CRC: crc32.Checksum(body, castagnoli), Group: body}
		if body, err = json.Marshal(form); err == nil {
			err = vfs.WriteFileAtomic(vfs.OS(), name, append(body, '\n'), 0o600)
		}
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// readRecord reads what writeRecord wrote.
func readRecord(dir string) (r groupRecord, err error) {
	name := filepath.Join(dir, recordFile)
	raw, err := vfs.ReadFile(vfs.OS(), name, maxSmallFile)
	if err != nil {
		return r, fmt.Errorf("read %s: %w", name, err)
	}
	return decodeRecord(name, raw)
}

func decodeRecord(name string, raw []byte) (r groupRecord, err error) {
	var form recordForm
	if err := json.Unmarshal(raw, &form); err != nil {
		return r, fmt.Errorf("read %s: %w", name, err)
	}
	switch {
	case form.Magic != recordMagic:
		return r, fmt.Errorf("read %s: not a file of rephub: magic %q", name, form.Magic)
	case form.Version != recordVersion:
		return r, fmt.Errorf("read %s: version %d is not supported, this rephub knows %d", name, form.Version, recordVersion)
	case crc32.Checksum(form.Group, castagnoli) != form.CRC:
		return r, fmt.Errorf("read %s: damaged: the checksum is wrong", name)
	}
	if err := json.Unmarshal(form.Group, &r); err != nil {
		return r, fmt.Errorf("read %s: %w", name, err)
	}
	return r, nil
}

// scanRecords reads the records in all groups' folders, and finishes removals
// that were interrupted. The error joins those of folders it could not read.
func scanRecords(root string) (records []groupRecord, err error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("list groups: %w", err)
	}
	var errs []error
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		switch {
		case !e.IsDir():
		case strings.HasPrefix(e.Name(), removedPrefix):
			errs = append(errs, os.RemoveAll(dir))
		default:
			r, err := readRecord(dir)
			if err == nil && r.Name != e.Name() {
				err = fmt.Errorf("read %s: it is of group %s", dir, r.Name)
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			records = append(records, r)
		}
	}
	return records, errors.Join(errs...)
}
