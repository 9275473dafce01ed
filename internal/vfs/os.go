package vfs

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// OS is the operating system's file system.
func OS() FS { return osFS{} }

type osFS struct{}

func (osFS) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &osFile{File: f, fd: int(f.Fd())}, nil
}

func (osFS) Remove(name string) error                     { return os.Remove(name) }
func (osFS) Rename(old, new string) error                 { return os.Rename(old, new) }
func (osFS) MkdirAll(name string, perm os.FileMode) error { return os.MkdirAll(name, perm) }
func (osFS) ReadDir(name string) ([]os.DirEntry, error)   { return os.ReadDir(name) }
func (osFS) Stat(name string) (os.FileInfo, error)        { return os.Stat(name) }

func (osFS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

func (osFS) StatFS(path string) (Space, error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Statfs(path, &st) }); err != nil {
		return Space{}, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return Space{Total: int64(st.Blocks) * st.Bsize, Free: int64(st.Bavail) * st.Bsize}, nil
}

// osFile adds what os.File lacks. fd stays valid while the caller keeps the
// contract of File: Close only after all other calls have returned.
type osFile struct {
	*os.File
	fd int
}

func (f *osFile) fail(op string, err error) error {
	return &os.PathError{Op: op, Path: f.Name(), Err: err}
}

func (f *osFile) Sync() error {
	if err := retry(func() error { return unix.Fdatasync(f.fd) }); err != nil {
		return f.fail("fdatasync", err)
	}
	return nil
}

func (f *osFile) Size() (int64, error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(f.fd, &st) }); err != nil {
		return 0, f.fail("fstat", err)
	}
	return st.Size, nil
}

// maxIov is the kernel's limit on buffers per call (IOV_MAX).
const maxIov = 1024

// maxWrite bounds the bytes of one call: a kernel without preemption copies them in
// one go, and keeps a VM that wants the processor waiting meanwhile (measured: 6 ms).
const maxWrite = 128 << 10

func (f *osFile) Writev(bufs [][]byte, off int64) (int, error) {
	total := 0
	skip := 0 // bytes of bufs[0] already written
	for len(bufs) > 0 {
		if skip == len(bufs[0]) {
			bufs, skip = bufs[1:], 0
			continue
		}
		var n int
		err := retry(func() (err error) {
			if first := bufs[0][skip:]; skip > 0 || len(first) > maxWrite {
				n, err = unix.Pwrite(f.fd, first[:min(len(first), maxWrite)], off)
			} else {
				n, err = unix.Pwritev(f.fd, atMost(bufs), off)
			}
			return err
		})
		if err != nil {
			return total, f.fail("pwritev", err)
		}
		if n == 0 {
			return total, f.fail("pwritev", io.ErrShortWrite)
		}
		total += n
		off += int64(n)
		for n > 0 {
			step := min(n, len(bufs[0])-skip)
			n -= step
			if skip += step; skip == len(bufs[0]) {
				bufs, skip = bufs[1:], 0
			}
		}
	}
	return total, nil
}

// atMost is as many of the buffers, whose first is short enough, as one call takes.
func atMost(bufs [][]byte) [][]byte {
	n, size := 0, 0
	for n < min(len(bufs), maxIov) && size+len(bufs[n]) <= maxWrite {
		size += len(bufs[n])
		n++
	}
	return bufs[:n]
}

func (f *osFile) PunchHole(off, n int64) error {
	return f.fallocate("punch hole", unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func (f *osFile) Allocate(off, n int64) error {
	return f.fallocate("fallocate", unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func (f *osFile) fallocate(op string, mode uint32, off, n int64) error {
	if err := retry(func() error { return unix.Fallocate(f.fd, mode, off, n) }); err != nil {
		return f.fail(op, err)
	}
	return nil
}

func (f *osFile) NextData(off int64) (int64, error) { return f.seek(off, unix.SEEK_DATA) }
func (f *osFile) NextHole(off int64) (int64, error) { return f.seek(off, unix.SEEK_HOLE) }

func (f *osFile) seek(off int64, whence int) (int64, error) {
	at, err := unix.Seek(f.fd, off, whence)
	if errors.Is(err, unix.ENXIO) {
		return 0, io.EOF
	}
	if err != nil {
		return 0, f.fail("lseek", err)
	}
	return at, nil
}

func (f *osFile) Map(off, n int64) (Mapping, error) {
	if n == 0 {
		return &mapping{}, nil
	}
	p, err := unix.Mmap(f.fd, off, int(n), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, f.fail("mmap", err)
	}
	return &mapping{p: p}, nil
}

type mapping struct{ p []byte }

func (m *mapping) Bytes() []byte { return m.p }

func (m *mapping) Close() error {
	p := m.p
	m.p = nil
	if p == nil {
		return nil
	}
	return unix.Munmap(p)
}

// retry repeats a system call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
