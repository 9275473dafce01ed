// Package errorfs fails chosen I/Os of a file system, so that tests can walk
// through every one of them.
package errorfs

import (
	"os"
	"sync/atomic"

	"github.com/rephub/rephub/internal/vfs"
)

// Op is what an I/O does.
type Op uint

// The ops; a set of them is their sum.
const (
	Open Op = 1 << iota
	Remove
	Rename
	Mkdir
	ReadDir
	Stat
	SyncDir
	Read
	Write // WriteAt and Writev: half of the bytes go out before the error
	Sync
	Truncate
	Punch
	Allocate
	Map

	// Changes are the ops that change or secure something.
	Changes = Open | Remove | Rename | Mkdir | SyncDir | Write | Sync | Truncate | Punch | Allocate
	// All ops that can be failed.
	All = Changes | ReadDir | Stat | Read | Map
)

// Call is one I/O about to be done.
type Call struct {
	N    int64 // counts from 1, over all calls
	Op   Op
	Name string
}

// FS asks before every I/O whether it shall fail.
type FS struct {
	vfs.FS
	n      atomic.Int64
	decide func(Call) error
}

// New wraps base. decide is called before each I/O, concurrently; an error of
// it is the I/O's result.
func New(base vfs.FS, decide func(Call) error) *FS {
	return &FS{FS: base, decide: decide}
}

// Calls is the number of I/Os so far.
func (f *FS) Calls() int64 { return f.n.Load() }

// Nth fails the n-th call (from 1) among those of the given ops, once, with err.
// Ask fired whether it came to that.
func Nth(n int64, ops Op, err error) (decide func(Call) error, fired func() bool) {
	var seen atomic.Int64
	decide = func(c Call) error {
		if c.Op&ops != 0 && seen.Add(1) == n {
			return &os.PathError{Op: "injected", Path: c.Name, Err: err}
		}
		return nil
	}
	return decide, func() bool { return seen.Load() >= n }
}

func (f *FS) ask(op Op, name string) error {
	return f.decide(Call{N: f.n.Add(1), Op: op, Name: name})
}

// OpenFile implements vfs.FS.
func (f *FS) OpenFile(name string, flag int, perm os.FileMode) (vfs.File, error) {
	if err := f.ask(Open, name); err != nil {
		return nil, err
	}
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &errFile{File: file, fs: f, name: name}, nil
}

// Remove implements vfs.FS.
func (f *FS) Remove(name string) error {
	if err := f.ask(Remove, name); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

// Rename implements vfs.FS.
func (f *FS) Rename(old, new string) error {
	if err := f.ask(Rename, old); err != nil {
		return err
	}
	return f.FS.Rename(old, new)
}

// MkdirAll implements vfs.FS.
func (f *FS) MkdirAll(name string, perm os.FileMode) error {
	if err := f.ask(Mkdir, name); err != nil {
		return err
	}
	return f.FS.MkdirAll(name, perm)
}

// ReadDir implements vfs.FS.
func (f *FS) ReadDir(name string) ([]os.DirEntry, error) {
	if err := f.ask(ReadDir, name); err != nil {
		return nil, err
	}
	return f.FS.ReadDir(name)
}

// Stat implements vfs.FS.
func (f *FS) Stat(name string) (os.FileInfo, error) {
	if err := f.ask(Stat, name); err != nil {
		return nil, err
	}
	return f.FS.Stat(name)
}

// SyncDir implements vfs.FS.
func (f *FS) SyncDir(name string) error {
	if err := f.ask(SyncDir, name); err != nil {
		return err
	}
	return f.FS.SyncDir(name)
}

type errFile struct {
	vfs.File
	fs   *FS
	name string
}

func (f *errFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.ask(Read, f.name); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *errFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.ask(Write, f.name); err != nil {
		n, _ := f.File.WriteAt(p[:len(p)/2], off)
		return n, err
	}
	return f.File.WriteAt(p, off)
}

func (f *errFile) Writev(bufs [][]byte, off int64) (int, error) {
	if err := f.fs.ask(Write, f.name); err != nil {
		var all []byte
		for _, b := range bufs {
			all = append(all, b...)
		}
		n, _ := f.File.WriteAt(all[:len(all)/2], off)
		return n, err
	}
	return f.File.Writev(bufs, off)
}

func (f *errFile) Sync() error {
	if err := f.fs.ask(Sync, f.name); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *errFile) Truncate(size int64) error {
	if err := f.fs.ask(Truncate, f.name); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *errFile) PunchHole(off, n int64) error {
	if err := f.fs.ask(Punch, f.name); err != nil {
		return err
	}
	return f.File.PunchHole(off, n)
}

func (f *errFile) Allocate(off, n int64) error {
	if err := f.fs.ask(Allocate, f.name); err != nil {
		return err
	}
	return f.File.Allocate(off, n)
}

func (f *errFile) Map(off, n int64) (vfs.Mapping, error) {
	if err := f.fs.ask(Map, f.name); err != nil {
		return nil, err
	}
	return f.File.Map(off, n)
}
