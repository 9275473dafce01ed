// Package crashfs is a file system in memory that can lose its power: what was
// not synced is then there in part, sector by sector, or not at all.
package crashfs

import (
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/rephub/rephub/internal/vfs"
)

// FS is the file system. The zero value is not usable: see New.
type FS struct {
	mu      sync.Mutex
	dirs    map[string]*dir
	onSync  func(name string) error
	evict   bool
	space   vfs.Space
	syncSeq int
}

// dir holds files and, by their names, directories.
type dir struct {
	files map[string]*inode
	disk  map[string]*inode // after the last SyncDir
	ops   []dirOp           // since then
}

// dirOp is a change of a directory: name now is node (nil: gone); from, if not
// empty, is the name that goes away with it.
type dirOp struct {
	name string
	node *inode
	from string
}

// New makes an empty file system with a root directory.
func New() *FS {
	return &FS{dirs: map[string]*dir{"/": newDir()}, space: vfs.Space{Total: 1 << 40, Free: 1 << 40}}
}

func newDir() *dir { return &dir{files: map[string]*inode{}, disk: map[string]*inode{}} }

// OnSync sets a hook that is called before every file or directory sync, from
// the goroutine that syncs, with no lock held; it may call Crash. Its error
// fails the sync, and then the bytes concerned will never reach the disk though
// the page cache goes on showing them; with evict, it does not even do that.
func (f *FS) OnSync(hook func(name string) error, evict bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onSync, f.evict = hook, evict
}

// Syncs counts the syncs that succeeded.
func (f *FS) Syncs() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.syncSeq
}

// Crash is the file system as it may be after a power loss now; f itself goes
// on as if nothing had happened. The same seed gives the same outcome.
// Directories themselves are always there: they are made once, and early.
func (f *FS) Crash(seed uint64) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := rand.New(rand.NewPCG(seed, 1))
	c := New()
	for _, name := range slices.Sorted(maps.Keys(f.dirs)) {
		d := f.dirs[name]
		files := maps.Clone(d.disk)
		all := r.IntN(4)
		for _, op := range d.ops {
			if all == 0 || all > 1 && r.IntN(2) == 0 {
				continue
			}
			op.apply(files)
		}
		nd := newDir()
		for _, file := range slices.Sorted(maps.Keys(files)) {
			nd.files[file] = files[file].crashed(r)
		}
		nd.disk = maps.Clone(nd.files)
		c.dirs[name] = nd
	}
	return c
}

func (op dirOp) apply(files map[string]*inode) {
	if op.from != "" {
		if files[op.from] != op.node {
			return
		}
		delete(files, op.from)
	}
	if op.node == nil {
		delete(files, op.name)
	} else {
		files[op.name] = op.node
	}
}

func fail(op, name string, err error) error { return &os.PathError{Op: op, Path: name, Err: err} }

// split finds the directory of a name. It needs mu.
func (f *FS) split(op, name string) (*dir, string, error) {
	name = filepath.Clean("/" + name)
	d := f.dirs[filepath.Dir(name)]
	if d == nil {
		return nil, "", fail(op, name, os.ErrNotExist)
	}
	return d, filepath.Base(name), nil
}

func (d *dir) change(op dirOp) {
	op.apply(d.files)
	d.ops = append(d.ops, op)
}

// OpenFile implements vfs.FS.
func (f *FS) OpenFile(name string, flag int, perm os.FileMode) (vfs.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d, base, err := f.split("open", name)
	if err != nil {
		return nil, err
	}
	if f.dirs[filepath.Clean("/"+name)] != nil {
		return nil, fail("open", name, syscall.EISDIR)
	}
	n := d.files[base]
	switch {
	case n == nil && flag&os.O_CREATE == 0:
		return nil, fail("open", name, os.ErrNotExist)
	case n != nil && flag&os.O_EXCL != 0:
		return nil, fail("open", name, os.ErrExist)
	case n == nil:
		n = newInode()
		d.change(dirOp{name: base, node: n})
	case flag&os.O_TRUNC != 0:
		n.resize(0)
	}
	return &file{fs: f, n: n, name: name, readOnly: flag&(os.O_WRONLY|os.O_RDWR) == 0}, nil
}

// Remove implements vfs.FS.
func (f *FS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	d, base, err := f.split("remove", name)
	if err != nil {
		return err
	}
	if sub := f.dirs[filepath.Clean("/"+name)]; sub != nil {
		if len(sub.files) > 0 {
			return fail("remove", name, syscall.ENOTEMPTY)
		}
		delete(f.dirs, filepath.Clean("/"+name))
		return nil
	}
	if d.files[base] == nil {
		return fail("remove", name, os.ErrNotExist)
	}
	d.change(dirOp{name: base})
	return nil
}

// Rename implements vfs.FS, within one directory.
func (f *FS) Rename(old, new string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	d, from, err := f.split("rename", old)
	if err != nil {
		return err
	}
	to, base, err := f.split("rename", new)
	if err != nil {
		return err
	}
	if d != to {
		return fail("rename", old, errors.New("from one directory to another is not modelled"))
	}
	n := d.files[from]
	if n == nil {
		return fail("rename", old, os.ErrNotExist)
	}
	if from != base {
		d.change(dirOp{name: base, node: n, from: from})
	}
	return nil
}

// MkdirAll implements vfs.FS.
func (f *FS) MkdirAll(name string, perm os.FileMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name = filepath.Clean("/" + name); name != "/"; name = filepath.Dir(name) {
		if d := f.dirs[filepath.Dir(name)]; d != nil && d.files[filepath.Base(name)] != nil {
			return fail("mkdir", name, syscall.ENOTDIR)
		}
		if f.dirs[name] == nil {
			f.dirs[name] = newDir()
		}
	}
	return nil
}

// SyncDir implements vfs.FS.
func (f *FS) SyncDir(name string) error {
	if err := f.hook(name); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.dirs[filepath.Clean("/"+name)]
	if d == nil {
		return fail("sync", name, os.ErrNotExist)
	}
	d.disk, d.ops = maps.Clone(d.files), nil
	f.syncSeq++
	return nil
}

func (f *FS) hook(name string) error {
	f.mu.Lock()
	hook := f.onSync
	f.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(name)
}

// StatFS implements vfs.FS.
func (f *FS) StatFS(string) (vfs.Space, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.space, nil
}
