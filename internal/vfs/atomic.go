package vfs

import (
	"fmt"
	"os"
	"path/filepath"
)

// TempSuffix ends the name of a file that WriteFileAtomic has not finished: it
// may be removed by whoever owns the directory.
const TempSuffix = ".tmp"

// WriteFileAtomic replaces name with data so that after a crash at any moment
// the old or the new content is there, whole. When it returns nil the new
// content is durable. One writer per name at a time.
func WriteFileAtomic(fs FS, name string, data []byte, perm os.FileMode) error {
	temp := name + TempSuffix
	if err := writeSynced(fs, temp, data, perm); err != nil {
		fs.Remove(temp)
		return err
	}
	if err := fs.Rename(temp, name); err != nil {
		fs.Remove(temp)
		return fmt.Errorf("rename %s: %w", temp, err)
	}
	if err := fs.SyncDir(filepath.Dir(name)); err != nil {
		return fmt.Errorf("sync directory of %s: %w", name, err)
	}
	return nil
}

func writeSynced(fs FS, name string, data []byte, perm os.FileMode) error {
	f, err := fs.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, perm)
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	_, err = f.WriteAt(data, 0)
	if err != nil {
		err = fmt.Errorf("write %s: %w", name, err)
	} else if err = f.Sync(); err != nil {
		err = fmt.Errorf("sync %s: %w", name, err)
	}
	if cerr := f.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close %s: %w", name, cerr)
	}
	return err
}

// ReadFile reads a whole file of at most limit bytes.
func ReadFile(fs FS, name string, limit int64) ([]byte, error) {
	f, err := fs.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("stat %s: %w", name, err)
	}
	if size > limit {
		return nil, fmt.Errorf("read %s: %d bytes, at most %d expected", name, size, limit)
	}
	data := make([]byte, size)
	if size == 0 {
		return data, nil
	}
	if _, err := f.ReadAt(data, 0); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}
