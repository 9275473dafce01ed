package files

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rephub/rephub/internal/files/ext"
	"github.com/rephub/rephub/internal/files/ntfs"
	"github.com/rephub/rephub/internal/files/tree"
	"github.com/rephub/rephub/internal/files/xfs"
)

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// image makes a file of a size, sparse.
func image(t testing.TB, size int64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(name)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// mounted mounts an image with the kernel's own driver, until the test ends or
// the returned function is called.
func mounted(t testing.TB, img string, command ...string) (dir string, end func()) {
	t.Helper()
	dir = t.TempDir()
	run(t, command[0], append(command[1:], img, dir)...)
	done := false
	end = func() {
		if !done {
			done = true
			if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
				t.Errorf("umount: %v\n%s", err, out)
			}
		}
	}
	t.Cleanup(end)
	return dir, end
}

func device(t testing.TB, img string) tree.Device {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return tree.Section(io.NewSectionReader(f, 0, st.Size()), 0, st.Size())
}

func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(p)
	return p
}

// populate writes what is hard to read: holes, unwritten room, fragments, many
// names, long names, links.
func populate(t testing.TB, dir string, links bool) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	j := func(p ...string) string { return filepath.Join(append([]string{dir}, p...)...) }
	check(os.MkdirAll(j("etc", "deep", "er"), 0o750))
	check(os.WriteFile(j("etc", "small"), []byte("hello\n"), 0o640))
	check(os.WriteFile(j("etc", "empty"), nil, 0o600))
	check(os.WriteFile(j("etc", "deep", "er", strings.Repeat("n", 200)), noise(1, 5000), 0o644))
	check(os.WriteFile(j("big"), noise(2, 3<<20+123), 0o644))
	check(os.Mkdir(j("many"), 0o755))
	for i := range 1500 {
		check(os.WriteFile(j("many", fmt.Sprintf("file with a longer name %d", i)), []byte{byte(i)}, 0o644))
	}
	for i := 0; i < 1500; i += 3 {
		check(os.Remove(j("many", fmt.Sprintf("file with a longer name %d", i))))
	}
	f, err := os.Create(j("sparse"))
	check(err)
	_, err = f.WriteAt(noise(3, 10000), 5<<20+77)
	check(err)
	_, err = f.WriteAt([]byte("begin"), 0)
	check(err)
	check(f.Truncate(9 << 20))
	check(f.Close())
	// Two files that grow in turns are in pieces.
	a, err := os.Create(j("pieces"))
	check(err)
	b, err := os.Create(j("others"))
	check(err)
	for i := range 400 {
		_, err = a.WriteAt(noise(uint64(i), 4096), int64(i)*8192)
		check(err)
		check(a.Sync())
		_, err = b.Write(noise(uint64(i), 4096))
		check(err)
		if i%50 == 0 {
			check(b.Sync())
		}
	}
	check(a.Close())
	check(b.Close())
	check(os.Remove(j("others")))
	if !links {
		return
	}
	check(os.Symlink("etc/small", j("short link")))
	check(os.Symlink("/"+strings.Repeat("x/", 300), j("long link")))
	check(os.Link(j("big"), j("etc", "hard")))
	check(unix.Mknod(j("pipe"), unix.S_IFIFO|0o600, 0))
	f, err = os.Create(j("unwritten"))
	check(err)
	if err := unix.Fallocate(int(f.Fd()), 0, 0, 2<<20); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("middle"), 1<<20)
	check(err)
	check(f.Close())
}

// same compares a tree that we read with what the kernel shows.
func same(t *testing.T, n tree.Node, dir string, modes bool) (files int) {
	t.Helper()
	want, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]tree.Node{}
	if err := n.List(func(name string, open func() (tree.Node, error)) error {
		c, err := open()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if got[name] != nil {
			return fmt.Errorf("%s is there twice", name)
		}
		got[name] = c
		return nil
	}); err != nil {
		t.Fatalf("list %s: %v", dir, err)
	}
	for _, e := range want {
		path := filepath.Join(dir, e.Name())
		c := got[e.Name()]
		if c == nil {
			t.Errorf("%s is missing", path)
			continue
		}
		delete(got, e.Name())
		files++
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		st := c.Stat()
		if st.Mode.Type() != info.Mode().Type() || modes && st.Mode != info.Mode() || !st.ModTime.Equal(info.ModTime()) ||
			info.Mode().IsRegular() && st.Size != info.Size() {
			t.Errorf("%s: got %v %d %v, want %v %d %v", path, st.Mode, st.Size, st.ModTime, info.Mode(), info.Size(), info.ModTime())
			continue
		}
		switch {
		case st.Mode.IsDir():
			files += same(t, c, path, modes)
		case st.Mode.Type() == fs.ModeSymlink:
			target, err := c.Readlink()
			if want, _ := os.Readlink(path); err != nil || target != want {
				t.Errorf("%s: target %q, %v, want %q", path, target, err, want)
			}
		case st.Mode.IsRegular():
			sameContent(t, c, path)
		}
	}
	for name := range got {
		if name != "System Volume Information" {
			t.Errorf("%s is there and should not be", filepath.Join(dir, name))
		}
	}
	return files
}

func sameContent(t *testing.T, n tree.Node, path string) {
	t.Helper()
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := n.Open()
	if err != nil {
		t.Errorf("open %s: %v", path, err)
		return
	}
	got, err := io.ReadAll(io.NewSectionReader(r, 0, n.Stat().Size))
	if err != nil || !bytes.Equal(got, want) {
		at := 0
		for at < min(len(got), len(want)) && got[at] == want[at] {
			at++
		}
		t.Errorf("%s: %d bytes, %v, want %d; they differ from byte %d on", path, len(got), err, len(want), at)
	}
	// Reads that begin and end anywhere.
	for i := range 20 {
		if len(want) < 100 {
			break
		}
		off := rand.New(rand.NewPCG(uint64(i), 7)).IntN(len(want) - 50)
		p := make([]byte, 50)
		if _, err := r.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, want[off:off+50]) {
			t.Errorf("%s: 50 bytes at %d: %v", path, off, err)
		}
	}
}

type opener func(tree.Device) (tree.FS, error)

func openExt(d tree.Device) (tree.FS, error)  { return ext.Open(d) }
func openXFS(d tree.Device) (tree.FS, error)  { return xfs.Open(d) }
func openNTFS(d tree.Device) (tree.FS, error) { return ntfs.Open(d) }

func root(t *testing.T, open opener, img string) tree.Node {
	t.Helper()
	f, err := open(device(t, img))
	if err != nil {
		t.Fatal(err)
	}
	n, err := f.Root()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

var kinds = []struct {
	name string
	open opener
	mkfs []string
	size int64
}{
	{"ext4", openExt, []string{"mkfs.ext4", "-qF"}, 64 << 20},
	{"ext4 with blocks of 1 KiB", openExt, []string{"mkfs.ext4", "-qF", "-b", "1024"}, 64 << 20},
	{"ext4 with data in inodes", openExt, []string{"mkfs.ext4", "-qF", "-O", "inline_data"}, 64 << 20},
	{"ext4 without checksums", openExt, []string{"mkfs.ext4", "-qF", "-O", "^metadata_csum,^64bit,meta_bg,^resize_inode"}, 64 << 20},
	{"ext3", openExt, []string{"mkfs.ext3", "-qF"}, 64 << 20},
	{"ext2", openExt, []string{"mkfs.ext2", "-qF", "-b", "1024"}, 64 << 20},
	{"xfs", openXFS, []string{"mkfs.xfs", "-qf"}, 320 << 20},
	{"xfs with small blocks", openXFS, []string{"mkfs.xfs", "-qf", "-b", "size=1024", "-n", "size=4096"}, 320 << 20},
}

// What we read is what the kernel shows, of a file system that was unmounted.
func TestClean(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			img := image(t, k.size)
			run(t, k.mkfs[0], append(k.mkfs[1:], img)...)
			dir, end := mounted(t, img, "mount", "-o", "loop")
			populate(t, dir, true)
			end()
			n := root(t, k.open, img)
			dir, _ = mounted(t, img, "mount", "-o", "loop,ro")
			if files := same(t, n, dir, true); files < 1000 {
				t.Errorf("only %d files", files)
			}
		})
	}
}

// A file system that is in use is in its journal for a part. What we read is
// what the kernel shows when it has replayed that.
func TestInUse(t *testing.T) {
	for _, k := range kinds {
		if k.name == "ext2" {
			continue // it has no journal
		}
		t.Run(k.name, func(t *testing.T) {
			img := image(t, k.size)
			run(t, k.mkfs[0], append(k.mkfs[1:], img)...)
			dir, _ := mounted(t, img, "mount", "-o", "loop")
			populate(t, dir, true)
			for i := range 20 { // sync ends a transaction, and leaves metadata where it is
				name := filepath.Join(dir, "etc", fmt.Sprint("late ", i))
				f, err := os.Create(name)
				if err != nil {
					t.Fatal(err)
				}
				_, err = f.Write(noise(uint64(i), 1000*i))
				if err := errors.Join(err, f.Sync(), f.Close(), os.Rename(name, name+" renamed")); err != nil {
					t.Fatal(err)
				}
			}
			f, err := os.Create(filepath.Join(dir, "last"))
			if err == nil {
				err = errors.Join(f.Sync(), f.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
			crashed := filepath.Join(t.TempDir(), "crashed.raw")
			run(t, "cp", "--sparse=always", img, crashed)
			n := root(t, k.open, crashed)
			if _, err := n.Lookup("last"); err != nil {
				t.Errorf("the file that was synced last: %v", err)
			}
			options := "loop"
			if strings.HasPrefix(k.name, "xfs") {
				options += ",nouuid" // the one that it is a copy of is mounted
			}
			dir, _ = mounted(t, crashed, "mount", "-o", options)
			if files := same(t, n, dir, true); files < 1000 {
				t.Errorf("only %d files", files)
			}
		})
	}
}
