package files

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rephub/rephub/internal/files/fat"
	"github.com/rephub/rephub/internal/files/tree"
)

func openFAT(d tree.Device) (tree.FS, error) { return fat.Open(d) }

// NTFS as ntfs-3g writes it, with compressed files.
func TestNTFS(t *testing.T) {
	for _, args := range [][]string{{"mkntfs", "-qF", "-L", "Größe"}, {"mkntfs", "-qF", "-c", "65536"}, {"mkntfs", "-qF", "-c", "512"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			img := image(t, 256<<20)
			run(t, args[0], append(args[1:], img)...)
			dir, end := mounted(t, img, "ntfs-3g", "-o", "compression")
			populate(t, dir, false)
			packed := filepath.Join(dir, "packed")
			if err := os.Mkdir(packed, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Setxattr(packed, "system.ntfs_attrib", binary.LittleEndian.AppendUint32(nil, 0x810), 0); err != nil {
				t.Fatal(err)
			}
			text := []byte(strings.Repeat("all work and no play makes a dull file, line by line\n", 20000))
			copy(text[300000:], noise(9, 200000)) // a part that does not shrink
			if err := os.WriteFile(filepath.Join(packed, "text"), text, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(packed, "hole"), append(make([]byte, 300000), text[:100000]...), 0o644); err != nil {
				t.Fatal(err)
			}
			end()
			n := root(t, openNTFS, img)
			dir, _ = mounted(t, img, "ntfs-3g", "-o", "ro")
			// NTFS packs only with clusters of up to 4 KiB, and ntfs-3g not before the
			// kernel has let go of the file, which is later than close.
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(dir, "packed", "text"), &st); err != nil || args[3] != "65536" && st.Blocks*512 > int64(len(text)*3/4) {
				t.Fatalf("the file is not compressed: %d blocks, %v", st.Blocks, err)
			}
			if files := same(t, n, dir, false); files < 1000 {
				t.Errorf("only %d files", files)
			}
			f, err := openNTFS(device(t, img))
			if err != nil {
				t.Fatal(err)
			}
			if i := f.Info(); args[2] == "-L" && i.Label != "Größe" || len(i.Notes) != 0 {
				t.Errorf("info %+v", i)
			}
			if _, err := n.Lookup("ETC"); err != nil {
				t.Errorf("a name in capitals: %v", err)
			}
		})
	}
}

// FAT as mtools write it.
func TestFAT(t *testing.T) {
	for _, tc := range []struct {
		size int64
		args []string
	}{
		{1440 << 10, []string{"-F", "12"}}, {32 << 20, []string{"-F", "16", "-n", "SHOP"}}, {64 << 20, []string{"-F", "32", "-s", "1"}},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			img := image(t, tc.size)
			run(t, "mkfs.vfat", append(tc.args, img)...)
			src := t.TempDir()
			want := map[string][]byte{"/SHORT.TXT": []byte("short"), "/a much longer name, with ümläuts.conf": noise(4, 300000), "/empty": {}}
			for i := range 150 {
				want[fmt.Sprintf("/dir/sub/file number %d", i)] = noise(uint64(i), i*37)
			}
			for name, p := range want {
				if err := os.MkdirAll(filepath.Dir(src+name), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(src+name, p, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("LC_ALL", "C.UTF-8")
			run(t, "mcopy", "-s", "-i", img, src+"/SHORT.TXT", src+"/a much longer name, with ümläuts.conf", src+"/empty", src+"/dir", "::")
			run(t, "mdel", "-i", img, "::/dir/sub/file number 3")
			delete(want, "/dir/sub/file number 3")
			got := map[string][]byte{}
			contents(t, root(t, openFAT, img), "", got)
			for name, p := range want {
				if g, ok := got[name]; !ok || !bytes.Equal(g, p) {
					t.Errorf("%s: %d bytes, there: %v, want %d", name, len(g), ok, len(p))
				}
				delete(got, name)
			}
			if len(got) > 0 {
				t.Errorf("too much: %d files", len(got))
			}
			f, err := openFAT(device(t, img))
			if err != nil {
				t.Fatal(err)
			}
			if i := f.Info(); tc.args[1] == "16" && i.Label != "SHOP" || i.UUID == "" {
				t.Errorf("info %+v", i)
			}
		})
	}
}

func contents(t *testing.T, n tree.Node, name string, got map[string][]byte) {
	t.Helper()
	if err := n.List(func(child string, open func() (tree.Node, error)) error {
		c, err := open()
		if err != nil {
			return err
		}
		if c.Stat().Mode.IsDir() {
			contents(t, c, name+"/"+child, got)
			return nil
		}
		r, err := c.Open()
		if err != nil {
			return err
		}
		p, err := io.ReadAll(io.NewSectionReader(r, 0, c.Stat().Size))
		got[name+"/"+child] = p
		return err
	}); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// A chain that ends before its file is damage, and not zeroes.
func TestFATShortChain(t *testing.T) {
	img := image(t, 32<<20)
	run(t, "mkfs.vfat", "-F", "16", img)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, noise(1, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "mcopy", "-i", img, file, "::")
	p, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	fat := int(binary.LittleEndian.Uint16(p[14:])) * 512
	binary.LittleEndian.PutUint16(p[fat+2*50:], 0xffff) // only in the first table
	if err := os.WriteFile(img, p, 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := root(t, openFAT, img).Lookup("FILE")
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Open()
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.ReadAll(io.NewSectionReader(r, 0, c.Stat().Size))
	var damage *tree.DamageError
	if !errors.As(err, &damage) {
		t.Errorf("got %v, want damage", err)
	}
}
