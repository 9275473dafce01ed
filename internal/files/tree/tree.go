// Package tree is what the readers of file systems have in common: the bytes
// that they read from, the tree that they make of them, and the errors by which
// a damaged file system is told from one that lacks a name.
package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"
)

// Device is a range of a volume that holds a file system. It never changes.
type Device interface {
	io.ReaderAt
	Size() int64 // bytes
}

// FS is a file system that was opened for reading.
type FS interface {
	// Root is the directory that everything else is in.
	Root() (Node, error)
	// Info describes the file system.
	Info() Info
}

// Info describes a file system.
type Info struct {
	Type  string // ext4, xfs, vfat, ntfs
	Label string
	UUID  string // as the guest's tools write it
	// Notes say in which way what is read may differ from what a guest would see.
	Notes []string
}

// Node is a file of any kind. Its methods fail with a *DamageError when the
// file system contradicts itself.
type Node interface {
	Stat() Stat
	// List calls visit with every name in a directory but . and .., in the order
	// of the disk; open reads what the name means.
	List(visit func(name string, open func() (Node, error)) error) error
	// Lookup finds a name in a directory: fs.ErrNotExist when there is none.
	Lookup(name string) (Node, error)
	// Readlink is the target of a symbolic link.
	Readlink() (string, error)
	// Open gives the content of a regular file, Stat().Size bytes.
	Open() (io.ReaderAt, error)
}

// Stat is what is known of a file beside its name.
type Stat struct {
	Mode     fs.FileMode
	Size     int64 // bytes
	ModTime  time.Time
	UID, GID uint32
	ID       uint64 // unlike that of every other file of the file system
}

// DamageError: the bytes are no whole file system.
type DamageError struct{ Text string }

func (e *DamageError) Error() string { return "damaged: " + e.Text }

// Damaged makes a DamageError.
func Damaged(format string, args ...any) error { return &DamageError{fmt.Sprintf(format, args...)} }

// UnsupportedError: what is there is in order, and we cannot read it.
type UnsupportedError struct{ Text string }

func (e *UnsupportedError) Error() string { return e.Text }

// Unsupported makes an UnsupportedError.
func Unsupported(format string, args ...any) error {
	return &UnsupportedError{fmt.Sprintf(format, args...)}
}

// Errors of names. A name that is not there is fs.ErrNotExist.
var (
	ErrNotDir  = errors.New("not a directory")
	ErrIsDir   = errors.New("is a directory")
	ErrNotFile = errors.New("not a regular file")
	ErrLoop    = errors.New("too many symbolic links")
)

// ReadFull fills p from off. What lies beyond the end is damage: somebody
// pointed there.
func ReadFull(d Device, p []byte, off int64) error {
	if off < 0 || off > d.Size()-int64(len(p)) {
		return Damaged("%d bytes at %d are beyond the end, %d", len(p), off, d.Size())
	}
	n, err := d.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Section is n bytes of a device at off.
func Section(d Device, off, n int64) Device { return io.NewSectionReader(d, off, n) }

// Find is Lookup for file systems that can only be searched: same says whether
// a name is the one that is looked for.
func Find(n Node, same func(string) bool) (Node, error) {
	var found Node
	err := n.List(func(name string, open func() (Node, error)) error {
		if !same(name) {
			return nil
		}
		var err error
		if found, err = open(); err != nil {
			return err
		}
		return errFound
	})
	switch {
	case errors.Is(err, errFound):
		return found, nil
	case err != nil:
		return nil, err
	}
	return nil, fs.ErrNotExist
}

var errFound = errors.New("found")

// UnixMode translates the mode of an inode.
func UnixMode(m uint16) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	for bit, f := range map[uint16]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&bit != 0 {
			mode |= f
		}
	}
	switch m & 0xf000 {
	case 0x8000:
	case 0x4000:
		mode |= fs.ModeDir
	case 0xa000:
		mode |= fs.ModeSymlink
	case 0x6000:
		mode |= fs.ModeDevice
	case 0x2000:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case 0x1000:
		mode |= fs.ModeNamedPipe
	case 0xc000:
		mode |= fs.ModeSocket
	default:
		mode |= fs.ModeIrregular
	}
	return mode
}

// Extent is a run of a file's bytes that lie together on the device.
type Extent struct {
	At   int64 // in the file, bytes
	Len  int64
	Disk int64 // on the device, bytes; -1 reads as zeroes
}

// Mapped is the content of a file whose bytes are found by a map. Find returns
// the extent that holds byte off; one that is longer than known is allowed.
type Mapped struct {
	Device Device
	Size   int64
	Find   func(off int64) (Extent, error)
}

// ReadAt implements io.ReaderAt.
func (m *Mapped) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at >= m.Size {
			return n, io.EOF
		}
		e, err := m.Find(at)
		if err != nil {
			return n, err
		}
		if at < e.At || at >= e.At+e.Len {
			return n, Damaged("the map of a file does not hold its byte %d", at)
		}
		part := p[n:]
		if left := min(e.At+e.Len, m.Size) - at; int64(len(part)) > left {
			part = part[:left]
		}
		if e.Disk < 0 {
			clear(part)
		} else if err := ReadFull(m.Device, part, e.Disk+at-e.At); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}
