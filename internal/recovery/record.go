package recovery

import (
	"fmt"
	"strings"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/sealed"
)

// mountFile is the name of a mount's record in its folder: a mount exists while
// this file does.
const mountFile = "mount.json"

var recordKind = sealed.Kind{Magic: "rephub-mount", Version: 1}

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

// decodeRecord reads the content of mount.json; name stands in errors.
func decodeRecord(name string, data []byte) (r Record, err error) {
	if err := recordKind.Decode(data, &r); err != nil {
		return Record{}, fmt.Errorf("read %s: %w", name, err)
	}
	return r, r.validate(name)
}

// loadRecord reads the record in a mount's folder.
func loadRecord(fs vfs.FS, dir string) (r Record, err error) {
	name := dir + "/" + mountFile
	if err := recordKind.Read(fs, name, &r); err != nil {
		return Record{}, err
	}
	return r, r.validate(name)
}

// storeRecord makes the record durable in a mount's folder.
func storeRecord(fs vfs.FS, dir string, r Record) error {
	return recordKind.Write(fs, dir+"/"+mountFile, r)
}
