package vfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/crashfs"
	"github.com/rephub/rephub/internal/vfs/errorfs"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestSuite holds every file system to the contract of FS and File.
func TestSuite(t *testing.T) {
	none := func(errorfs.Call) error { return nil }
	for name, make := range map[string]func(t *testing.T) (vfs.FS, string){
		"os":      func(t *testing.T) (vfs.FS, string) { return vfs.OS(), t.TempDir() },
		"crashfs": func(t *testing.T) (vfs.FS, string) { return crashfs.New(), "/" },
		"errorfs": func(t *testing.T) (vfs.FS, string) { return errorfs.New(vfs.OS(), none), t.TempDir() },
	} {
		t.Run(name, func(t *testing.T) {
			fs, root := make(t)
			suiteNames(t, fs, filepath.Join(root, "a", "b"))
			suiteFile(t, fs, filepath.Join(root, "a", "file"))
			suiteSparse(t, fs, filepath.Join(root, "a", "sparse"))
			must(t, fs.SyncDir(root))
			if s, err := fs.StatFS(root); err != nil || s.Total <= 0 || s.Free > s.Total {
				t.Errorf("space %+v, %v", s, err)
			}
		})
	}
}

func write(t *testing.T, fs vfs.FS, name, text string) {
	t.Helper()
	f, err := fs.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	must(t, err)
	_, err = f.WriteAt([]byte(text), 0)
	must(t, err)
	must(t, f.Close())
}

func suiteNames(t *testing.T, fs vfs.FS, dir string) {
	must(t, fs.MkdirAll(dir, 0o700))
	must(t, fs.MkdirAll(dir, 0o700))
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	if _, err := fs.OpenFile(one, os.O_RDWR, 0); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("open what is not there: %v", err)
	}
	if err := fs.Remove(one); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("remove what is not there: %v", err)
	}
	if err := fs.Rename(one, two); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("rename what is not there: %v", err)
	}
	write(t, fs, one, "1")
	write(t, fs, two, "22")
	if _, err := fs.OpenFile(one, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); !errors.Is(err, os.ErrExist) {
		t.Errorf("create what is there: %v", err)
	}
	must(t, fs.Rename(two, one))
	if i, err := fs.Stat(one); err != nil || i.Size() != 2 || i.IsDir() || i.Name() != "one" {
		t.Errorf("stat: %v, %v", i, err)
	}
	must(t, fs.MkdirAll(filepath.Join(dir, "sub"), 0o700))
	list, err := fs.ReadDir(dir)
	must(t, err)
	if len(list) != 2 || list[0].Name() != "one" || list[1].Name() != "sub" || !list[1].IsDir() {
		t.Errorf("directory: %v", list)
	}
	if err := fs.Remove(dir); err == nil {
		t.Error("a directory that is not empty was removed")
	}
	must(t, fs.Remove(filepath.Join(dir, "sub")))
	must(t, fs.Remove(one))
	must(t, fs.SyncDir(dir))
	if err := fs.SyncDir(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("sync a directory that is not there: %v", err)
	}
}

func suiteFile(t *testing.T, fs vfs.FS, name string) {
	f, err := fs.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	must(t, err)
	var bufs [][]byte
	var want []byte
	for i := range 3000 { // more than one call takes
		bufs = append(bufs, bytes.Repeat([]byte{byte(i)}, i%5))
		want = append(want, bufs[i]...)
	}
	if n, err := f.Writev(bufs, 100); err != nil || n != len(want) {
		t.Fatalf("writev: %d of %d, %v", n, len(want), err)
	}
	if size, err := f.Size(); err != nil || size != int64(100+len(want)) {
		t.Errorf("size %d, %v", size, err)
	}
	got := make([]byte, len(want)+100)
	if n, err := f.ReadAt(got, 0); n != len(got) || err != nil || !bytes.Equal(got[100:], want) || !bytes.Equal(got[:100], make([]byte, 100)) {
		t.Errorf("read: %d, %v", n, err)
	}
	if n, err := f.ReadAt(got, 50); n != len(got)-50 || err != io.EOF {
		t.Errorf("read over the end: %d, %v", n, err)
	}
	must(t, f.Truncate(10))
	must(t, f.Truncate(200))
	if n, err := f.ReadAt(got[:100], 100); n != 100 || err != nil || !bytes.Equal(got[:100], make([]byte, 100)) {
		t.Errorf("what was cut off came back: %v", err)
	}
	must(t, f.Sync())
	must(t, f.Allocate(0, 1<<20))
	if size, _ := f.Size(); size != 200 {
		t.Errorf("allocating made the size %d", size)
	}
	_, err = f.WriteAt([]byte("mapped"), 4096)
	must(t, err)
	m, err := f.Map(4096, 6)
	must(t, err)
	must(t, f.Close())
	if string(m.Bytes()) != "mapped" {
		t.Errorf("mapping: %q", m.Bytes())
	}
	must(t, m.Close())
	ro, err := fs.OpenFile(name, os.O_RDONLY, 0)
	must(t, err)
	if _, err := ro.WriteAt([]byte("x"), 0); err == nil {
		t.Error("a read-only file was written")
	}
	must(t, ro.Close())
}

func suiteSparse(t *testing.T, fs vfs.FS, name string) {
	f, err := fs.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	must(t, err)
	defer f.Close()
	const mb = 1 << 20
	must(t, f.Truncate(4*mb))
	_, err = f.WriteAt(bytes.Repeat([]byte{1}, mb), mb)
	must(t, err)
	at := func(want int64, get func(int64) (int64, error), off int64) {
		t.Helper()
		if got, err := get(off); err != nil || got != want {
			t.Errorf("from %d: %d, %v; want %d", off, got, err, want)
		}
	}
	at(mb, f.NextData, 0)
	at(2*mb, f.NextHole, mb)
	at(0, f.NextHole, 0)
	must(t, f.PunchHole(mb, mb/2))
	at(mb+mb/2, f.NextData, 0)
	for _, get := range []func(int64) (int64, error){f.NextData, f.NextHole} {
		if _, err := get(4 * mb); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
	}
	if _, err := f.NextData(3 * mb); err != io.EOF {
		t.Errorf("data behind the last: %v", err)
	}
	p := make([]byte, 2)
	if _, err := f.ReadAt(p, mb+mb/2-1); err != nil || p[0] != 0 || p[1] != 1 {
		t.Errorf("around the hole: %v, %v", p, err)
	}
}

// TestWriteFileAtomicUnderPowerLoss: the old or the new content, whole.
func TestWriteFileAtomicUnderPowerLoss(t *testing.T) {
	fs := crashfs.New()
	var shots []*crashfs.FS
	written := 0
	fs.OnSync(func(string) error {
		for seed := range uint64(8) {
			shots = append(shots, fs.Crash(uint64(len(shots))<<8|seed))
		}
		return nil
	}, false)
	text := func(i int) string { return fmt.Sprintf("%d:%s", i, bytes.Repeat([]byte{'a' + byte(i)}, 700*i)) }
	for i := range 8 {
		from := len(shots)
		must(t, vfs.WriteFileAtomic(fs, "/f", []byte(text(i)), 0o600))
		for _, s := range shots[from:] {
			got, err := vfs.ReadFile(s, "/f", 1<<20)
			if err != nil && (i > 0 || !errors.Is(err, os.ErrNotExist)) {
				t.Fatalf("after crash in write %d: %v", i, err)
			}
			if err == nil && string(got) != text(i) && (i == 0 || string(got) != text(i-1)) {
				t.Fatalf("write %d: neither old nor new: %.20q", i, got)
			}
		}
		got, err := vfs.ReadFile(fs.Crash(uint64(i)), "/f", 1<<20)
		if err != nil || string(got) != text(i) {
			t.Fatalf("write %d is not durable: %v", i, err)
		}
		written++
	}
	if len(shots) < 8*written {
		t.Fatalf("only %d crashes", len(shots))
	}
	if _, err := vfs.ReadFile(fs, "/f", 10); err == nil {
		t.Error("a file beyond the limit was read")
	}
}

// TestWriteFileAtomicFails at every I/O: an error, and the old content.
func TestWriteFileAtomicFails(t *testing.T) {
	for i := int64(1); ; i++ {
		base := crashfs.New()
		must(t, vfs.WriteFileAtomic(base, "/f", []byte("old"), 0o600))
		decide, fired := errorfs.Nth(i, errorfs.Changes, syscall.ENOSPC)
		err := vfs.WriteFileAtomic(errorfs.New(base, decide), "/f", []byte("new content"), 0o600)
		if !fired() {
			must(t, err)
			if i < 6 {
				t.Fatalf("only %d I/Os", i)
			}
			return
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("I/O %d: %v", i, err)
		}
		got, err := vfs.ReadFile(base, "/f", 100)
		must(t, err)
		if s := string(got); s != "old" && s != "new content" {
			t.Fatalf("I/O %d left %q", i, s)
		}
		if list, _ := base.ReadDir("/"); len(list) != 1 {
			t.Fatalf("I/O %d left %v", i, list)
		}
	}
}
