package recovery

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/errorfs"
)

func TestExport(t *testing.T) {
	g := newMemGroup(t, mountSize, 5)
	for _, format := range []Format{Raw, Qcow2} {
		t.Run(string(format), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a", "b")
			var last ExportProgress
			calls := 0
			files, err := ExportTo(t.Context(), g, 5, dir, format, func(p ExportProgress) {
				if p.Done < last.Done || p.Done > p.Total {
					t.Errorf("progress %+v after %+v", p, last)
				}
				last = p
				calls++
			})
			if err != nil {
				t.Fatal(err)
			}
			g.idle()
			if last.Done != last.Total || last.Total != 2*mountSize+512 || calls < 2 {
				t.Errorf("%d calls, progress ends with %+v", calls, last)
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 2 || len(files) != 2 || filepath.Base(files[0].Path) != "db-disk0."+string(format) {
				t.Fatalf("files %+v, in the directory %v", files, entries)
			}
			for i, f := range files {
				want := g.points[5][g.volumes[i].ID]
				raw := f.Path
				if format == Qcow2 {
					raw = filepath.Join(t.TempDir(), "raw")
					tool(t, "qemu-img", "check", f.Path)
					tool(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", f.Path, raw)
				}
				got, err := os.ReadFile(raw)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s differs from the point (err %v)", f.Path, err)
				}
				var st syscall.Stat_t
				if format == Qcow2 {
					continue // its clusters are larger than the holes here
				}
				if err := syscall.Stat(f.Path, &st); err != nil || st.Blocks*512 > f.Size*3/4 {
					t.Errorf("%s takes %d of %d bytes (err %v)", f.Path, st.Blocks*512, f.Size, err)
				}
			}
			if _, err := ExportTo(t.Context(), g, 5, dir, format, nil); !errors.Is(err, fs.ErrExist) {
				t.Errorf("export over old files: %v", err)
			}
		})
	}
}

// Whatever fails or is cancelled, nothing is left, and nothing has a final name.
func TestExportInterrupted(t *testing.T) {
	g := newMemGroup(t, mountSize, 5)
	empty := func(dir string) {
		t.Helper()
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
		g.idle()
	}
	for _, format := range []Format{Raw, Qcow2} {
		dir := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		_, err := ExportTo(ctx, g, 5, dir, format, func(ExportProgress) { cancel() })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", format, err)
		}
		cancel()
		empty(dir)
	}
	for n := int64(1); ; n++ {
		dir := t.TempDir()
		decide, fired := errorfs.Nth(n, errorfs.Open|errorfs.Write|errorfs.Sync|errorfs.Truncate|errorfs.Mkdir, syscall.EIO)
		_, err := exportTo(t.Context(), errorfs.New(vfs.OS(), decide), g, 5, dir, Raw, nil)
		if !fired() {
			if n < 10 {
				t.Fatalf("only %d I/Os", n)
			}
			break
		}
		if !errors.Is(err, syscall.EIO) {
			t.Fatalf("I/O %d: %v", n, err)
		}
		empty(dir)
		if n > 20 {
			n += 97 // the writes are all alike
		}
	}
}

// smallFS is a file system with little space.
type smallFS struct{ vfs.FS }

func (smallFS) StatFS(string) (vfs.Space, error) {
	return vfs.Space{Total: 1 << 30, Free: 1 << 20}, nil
}

func TestExportLooksForSpaceFirst(t *testing.T) {
	g := newMemGroup(t, mountSize, 5)
	dir := t.TempDir()
	var space *SpaceError
	if _, err := exportTo(t.Context(), smallFS{vfs.OS()}, g, 5, dir, Raw, nil); !errors.As(err, &space) || space.Need < mountSize/2 || space.Free != 1<<20 {
		t.Fatalf("got %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestExportWithoutQemuImg(t *testing.T) {
	g := newMemGroup(t, mountSize, 5)
	t.Setenv("PATH", t.TempDir())
	var missing *ToolError
	if _, err := ExportTo(t.Context(), g, 5, t.TempDir(), Qcow2, nil); !errors.As(err, &missing) || missing.Tool != "qemu-img" || missing.Hint == "" {
		t.Fatalf("got %v", err)
	}
	g.idle()
}

func TestFileNames(t *testing.T) {
	taken := make(map[string]bool)
	for _, c := range []struct{ name, want string }{
		{"vm/disk0", "vm-disk0.raw"}, {"vm-disk0", "vm-disk0-V9.raw"}, {"../../etc/x", "-..-etc-x.raw"}, {"...", "-V9.raw"},
	} {
		if got := fileName(Volume{ID: 9, Name: c.name}, Raw, taken); got != c.want {
			t.Errorf("%q becomes %q, expected %q", c.name, got, c.want)
		}
	}
}
