// Package vfs is the seam through which every file is touched, so that tests
// can fail any I/O and pull the plug at any moment.
package vfs

import (
	"io"
	"os"
)

// FS is a file system. Names are paths as the os package takes them. Errors
// are those of the os package (errors.Is with os.ErrNotExist, syscall.ENOSPC …).
// All methods may be called concurrently.
type FS interface {
	// OpenFile opens a regular file with the os package's flags.
	OpenFile(name string, flag int, perm os.FileMode) (File, error)
	// Remove unlinks one file or empty directory. Durable after SyncDir.
	Remove(name string) error
	// Rename replaces new. Durable after SyncDir of the directory (of both).
	Rename(old, new string) error
	// MkdirAll makes a directory and its parents. Durable after SyncDir of each parent.
	MkdirAll(name string, perm os.FileMode) error
	// ReadDir lists a directory in name order.
	ReadDir(name string) ([]os.DirEntry, error)
	// Stat describes a file or directory.
	Stat(name string) (os.FileInfo, error)
	// SyncDir makes the entries of a directory durable.
	SyncDir(name string) error
	// StatFS tells the space of the file system that holds path.
	StatFS(path string) (Space, error)
}

// Space of a file system, in bytes.
type Space struct {
	Total int64
	Free  int64 // what this process may still use
}

// File is an open regular file. ReadAt, WriteAt, Writev and Sync may run
// concurrently; Close once all others have returned.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sparse
	// Writev writes the buffers one after the other from off on, in few system
	// calls. It changes neither the slices nor their
	// bytes. A short write is an error; n says how many bytes went out.
	Writev(bufs [][]byte, off int64) (n int, err error)
	// Sync makes the bytes and the size durable (fdatasync). After an error
	// nothing written since the last good Sync can be trusted.
	Sync() error
	// Truncate sets the size in bytes.
	Truncate(size int64) error
	// Size is the length in bytes.
	Size() (int64, error)
}

// Sparse is what File can do about space and mappings.
type Sparse interface {
	// PunchHole gives back the space of [off, off+n); it reads as zeroes
	// after. The size does not change.
	PunchHole(off, n int64) error
	// Allocate reserves space for [off, off+n) without changing the size.
	Allocate(off, n int64) error
	// NextData is the first offset ≥ off that holds data, io.EOF if there is none.
	NextData(off int64) (int64, error)
	// NextHole is the first offset ≥ off that is a hole; the file's end is
	// one. io.EOF if off is at or after the end.
	NextHole(off int64) (int64, error)
	// Map maps [off, off+n) read-only. off is a multiple of the page size. The
	// mapping outlives Close of the file.
	Map(off, n int64) (Mapping, error)
}

// Mapping is a read-only view of a file. Touching it when the file was
// truncated below it kills the process: map immutable files only.
type Mapping interface {
	// Bytes is valid until Close.
	Bytes() []byte
	Close() error
}
