package crashfs

import (
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rephub/rephub/internal/vfs"
)

// file is an open file.
type file struct {
	fs       *FS
	n        *inode
	name     string
	readOnly bool
	closed   bool
}

// lock locks the file system for an operation on the file.
func (f *file) lock(op string, change bool) error {
	f.fs.mu.Lock()
	if f.closed || change && f.readOnly {
		f.fs.mu.Unlock()
		err := os.ErrClosed
		if !f.closed {
			err = os.ErrPermission
		}
		return fail(op, f.name, err)
	}
	return nil
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.lock("read", false); err != nil {
		return 0, err
	}
	defer f.fs.mu.Unlock()
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	if err := f.lock("write", true); err != nil {
		return 0, err
	}
	defer f.fs.mu.Unlock()
	f.n.write(p, off, true)
	return len(p), nil
}

func (f *file) Writev(bufs [][]byte, off int64) (int, error) {
	return f.WriteAt(slices.Concat(bufs...), off)
}

func (f *file) Sync() error {
	herr := f.fs.hook(f.name)
	if err := f.lock("sync", false); err != nil {
		return err
	}
	defer f.fs.mu.Unlock()
	if herr != nil {
		f.n.failSync(f.fs.evict)
		return herr
	}
	f.n.sync()
	f.fs.syncSeq++
	return nil
}

func (f *file) Truncate(size int64) error {
	if err := f.lock("truncate", true); err != nil {
		return err
	}
	defer f.fs.mu.Unlock()
	f.n.resize(int(size))
	return nil
}

func (f *file) Size() (int64, error) {
	if err := f.lock("stat", false); err != nil {
		return 0, err
	}
	defer f.fs.mu.Unlock()
	return int64(len(f.n.data)), nil
}

func (f *file) Close() error {
	if err := f.lock("close", false); err != nil {
		return err
	}
	defer f.fs.mu.Unlock()
	f.closed = true
	return nil
}

func (f *file) PunchHole(off, n int64) error {
	if err := f.lock("punch hole", true); err != nil {
		return err
	}
	defer f.fs.mu.Unlock()
	if n = min(n, int64(len(f.n.data))-off); n > 0 {
		f.n.write(make([]byte, n), off, false)
	}
	return nil
}

func (f *file) Allocate(off, n int64) error {
	if err := f.lock("fallocate", true); err != nil {
		return err
	}
	f.fs.mu.Unlock()
	return nil
}

func (f *file) NextData(off int64) (int64, error) { return f.next(off, true) }
func (f *file) NextHole(off int64) (int64, error) { return f.next(off, false) }

func (f *file) next(off int64, data bool) (int64, error) {
	if err := f.lock("seek", false); err != nil {
		return 0, err
	}
	defer f.fs.mu.Unlock()
	return f.n.next(off, data)
}

// Map gives a copy: only files that no longer change may be mapped.
func (f *file) Map(off, n int64) (vfs.Mapping, error) {
	if err := f.lock("map", false); err != nil {
		return nil, err
	}
	defer f.fs.mu.Unlock()
	m := make(mapping, n)
	if off < int64(len(f.n.data)) {
		copy(m, f.n.data[off:])
	}
	return m, nil
}

type mapping []byte

func (m mapping) Bytes() []byte { return m }
func (m mapping) Close() error  { return nil }

// info describes a file or directory.
type info struct {
	name string
	size int64
	dir  bool
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.dir }
func (i info) Sys() any           { return nil }

func (i info) Mode() os.FileMode {
	if i.dir {
		return os.ModeDir | 0o700
	}
	return 0o600
}

// Stat implements vfs.FS.
func (f *FS) Stat(name string) (os.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dirs[filepath.Clean("/"+name)] != nil {
		return info{name: filepath.Base(name), dir: true}, nil
	}
	d, base, err := f.split("stat", name)
	if err != nil {
		return nil, err
	}
	n := d.files[base]
	if n == nil {
		return nil, fail("stat", name, os.ErrNotExist)
	}
	return info{name: base, size: int64(len(n.data))}, nil
}

// ReadDir implements vfs.FS.
func (f *FS) ReadDir(name string) ([]os.DirEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name = filepath.Clean("/" + name)
	d := f.dirs[name]
	if d == nil {
		return nil, fail("readdir", name, os.ErrNotExist)
	}
	var list []os.DirEntry
	for _, base := range slices.Sorted(maps.Keys(d.files)) {
		list = append(list, fs.FileInfoToDirEntry(info{name: base, size: int64(len(d.files[base].data))}))
	}
	for sub := range f.dirs {
		if sub != "/" && filepath.Dir(sub) == name {
			list = append(list, fs.FileInfoToDirEntry(info{name: filepath.Base(sub), dir: true}))
		}
	}
	slices.SortFunc(list, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}
