package hub

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/sealed"
)

const (
	recordFile = "group.json"
	// removedPrefix marks the folder of a group that is being removed.
	removedPrefix = ".removed-"
)

var recordKind = sealed.Kind{Magic: "rephub-group", Version: 1}

// writeRecord makes the record beside a group's journal durable.
func writeRecord(dir string, r groupRecord) error {
	name := filepath.Join(dir, recordFile)
	if err := recordKind.Write(vfs.OS(), name, r); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// readRecord reads what writeRecord wrote.
func readRecord(dir string) (r groupRecord, err error) {
	err = recordKind.Read(vfs.OS(), filepath.Join(dir, recordFile), &r)
	return r, err
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
