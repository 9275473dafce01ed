package files

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/rephub/rephub/internal/files/tree"
)

// put writes a file's bytes into an image.
func put(t *testing.T, img string, off int64, p []byte) {
	t.Helper()
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt(p, off)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func bytesOf(t *testing.T, img string) []byte {
	t.Helper()
	p, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// sfdisk makes a partition table.
func sfdisk(t *testing.T, img, script string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sfdisk", "-q", "--no-reread", "--no-tell-kernel", img)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
}

func placesOf(t *testing.T, g *images) string {
	t.Helper()
	a, err := New(Config{}).List(t.Context(), g, 1, "")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, p := range a.Places {
		fmt.Fprintf(&b, "%s %s %s %v\n", p.Name, p.Kind, p.Type, p.Readable)
	}
	return b.String()
}

func TestPartitions(t *testing.T) {
	ext := bytesOf(t, small(t))
	vfat := image(t, 8<<20)
	run(t, "mkfs.vfat", vfat)
	for label, tc := range map[string]struct{ script, want string }{
		"gpt": {"label: gpt\nstart=2048, size=16384, name=boot\nstart=20480, size=32768, name=root\n",
			"web/disk0 volume partitions false\nweb/disk0:1 partition vfat true\nweb/disk0:2 partition ext4 true\n"},
		"dos": {"label: dos\nstart=2048, size=16384, type=c\nstart=18432, type=5\nstart=20480, size=32768\nstart=63488, size=2048, type=82\n",
			"web/disk0 volume partitions false\nweb/disk0:1 partition vfat true\nweb/disk0:5 partition ext4 true\nweb/disk0:6 partition unknown false\n"},
	} {
		t.Run(label, func(t *testing.T) {
			img := image(t, 64<<20)
			sfdisk(t, img, tc.script)
			put(t, img, 2048*512, bytesOf(t, vfat))
			put(t, img, 20480*512, ext)
			g := groupOf(t, "web/disk0", img)
			if got := placesOf(t, g); got != tc.want {
				t.Errorf("got\n%s", got)
			}
			if a, err := New(Config{}).List(t.Context(), g, 1, "/home/anna"); err != nil || len(a.Entries) != 1 {
				t.Errorf("%+v, %v", a, err)
			}
			if label != "gpt" {
				return
			}
			put(t, img, 512, make([]byte, 512)) // the copy at the end is left
			if got := placesOf(t, g); got != tc.want {
				t.Errorf("without the first table, got\n%s", got)
			}
			put(t, img, 64<<20-512, make([]byte, 512))
			if got := placesOf(t, g); got != "web/disk0 volume partitions false\n" {
				t.Errorf("without both tables, got\n%s", got)
			}
		})
	}
}

// loop attaches an image to a loop device.
func loop(t *testing.T, img string) string {
	t.Helper()
	dev := strings.TrimSpace(run(t, "losetup", "-f", "--show", img))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup: %v\n%s", err, out)
		}
	})
	return dev
}

// lvmTool is unpacked there by scripts/deps: the package's installation starts a
// daemon.
const lvmTool = "../../.cache/lvm/sbin/lvm"

// Logical volumes as LVM's own tools lay them out: one in two pieces, one in
// stripes over two disks.
func TestLVM(t *testing.T) {
	a, b := image(t, 100<<20), image(t, 100<<20)
	devA, devB := loop(t, a), loop(t, b)
	config := fmt.Sprintf(`global{activation=0} devices{use_devicesfile=0 filter=["a|^%s$|","a|^%s$|","r|.*|"]} backup{backup=0 archive=0}`, devA, devB)
	lvm := func(args ...string) {
		t.Helper()
		run(t, lvmTool, append([]string{args[0], "-q", "--config", config}, args[1:]...)...)
	}
	lvm("pvcreate", devA, devB)
	lvm("vgcreate", "vg0", devA, devB)
	lvm("lvcreate", "-an", "-Zn", "-Wn", "-L", "8M", "-n", "home", "vg0", devA)
	lvm("lvcreate", "-an", "-Zn", "-Wn", "-L", "32M", "-i", "2", "-I", "64k", "-n", "fast", "vg0")
	lvm("lvextend", "-L", "24M", "vg0/home", devA)
	got := run(t, lvmTool, "lvs", "-q", "--config", config, "--noheadings", "--units", "m", "-o", "lv_name,seg_pe_ranges", "vg0")
	for _, want := range []string{devA + ":0-1", devA + ":6-9", devA + ":2-5 " + devB + ":0-3"} {
		if !strings.Contains(got, want) {
			t.Fatalf("LVM has laid them out otherwise:\n%s", got)
		}
	}
	const start, extent = 1 << 20, 4 << 20
	ext := bytesOf(t, small(t)) // 16 MiB
	put(t, a, start, ext[:2*extent])
	put(t, a, start+6*extent, ext[2*extent:])
	const stripe = 64 << 10
	for n := 0; n < len(ext)/stripe; n++ {
		to := []string{a, b}[n%2]
		off := int64(start + n/2*stripe)
		if n%2 == 0 {
			off += 2 * extent
		}
		put(t, to, off, ext[n*stripe:(n+1)*stripe])
	}
	g := groupOf(t, "web/disk0", a, "web/disk1", b)
	want := "web/disk0 volume LVM2 false\nweb/disk1 volume LVM2 false\nweb:vg0/fast logical volume ext4 true\nweb:vg0/home logical volume ext4 true\n"
	if got := placesOf(t, g); got != want {
		t.Errorf("got\n%s", got)
	}
	r := New(Config{})
	for _, lv := range []string{"home", "fast"} {
		s, err := r.Open(t.Context(), g, 1, "web:vg0/"+lv+":/etc/big", 0)
		if err != nil {
			t.Fatal(err)
		}
		p, err := io.ReadAll(s)
		if s.Close(); err != nil || !bytes.Equal(p, noise(1, 2<<20)) {
			t.Errorf("%s: %d bytes, %v", lv, len(p), err)
		}
	}
	// With one disk of two, what is on that one can be read.
	g = groupOf(t, "web/disk0", a)
	if _, err := r.List(t.Context(), g, 1, "web:vg0/home:/etc"); err != nil {
		t.Error(err)
	}
	if _, err := r.List(t.Context(), g, 1, "web:vg0/fast:/etc"); kindOf(err) != Unsupported {
		t.Errorf("got %v", err)
	}
}

// consume reads everything, as far as it goes.
func consume(f tree.FS) error {
	n, err := f.Root()
	if err != nil {
		return err
	}
	left := 3000 // files
	return consumeNode(n, 0, &left)
}

func consumeNode(n tree.Node, depth int, left *int) error {
	if *left--; *left < 0 || depth > 20 {
		return nil
	}
	switch st := n.Stat(); {
	case st.Mode.IsDir():
		return n.List(func(_ string, open func() (tree.Node, error)) error {
			c, err := open()
			if err != nil || *left < 0 {
				return nil
			}
			_ = consumeNode(c, depth+1, left) // what else there is may be whole
			return nil
		})
	case st.Mode.IsRegular():
		r, err := n.Open()
		if err == nil {
			_, err = io.Copy(io.Discard, io.NewSectionReader(r, 0, min(st.Size, 4<<20)))
		}
		return err
	default:
		_, err := n.Readlink()
		return err
	}
}

// Bytes that were changed anywhere are damage or pass unseen; nothing fails in
// another way. Journals are included, of images that were in use.
func TestDamaged(t *testing.T) {
	all := map[string]string{}
	for _, k := range kinds {
		if k.name != "ext4" && k.name != "ext2" && k.name != "xfs" {
			continue
		}
		img := image(t, k.size)
		run(t, k.mkfs[0], append(k.mkfs[1:], img)...)
		dir, end := mounted(t, img, "mount", "-o", "loop")
		populate(t, dir, true)
		crashed := image(t, 0)
		run(t, "cp", "--sparse=always", img, crashed)
		end()
		all[k.name] = crashed
	}
	for name, args := range map[string][]string{"ntfs": {"mkntfs", "-qF"}, "vfat": {"mkfs.vfat"}} {
		img := image(t, 64<<20)
		run(t, args[0], append(args[1:], img)...)
		if name == "ntfs" {
			dir, end := mounted(t, img, "ntfs-3g")
			populate(t, dir, false)
			end()
		}
		all[name] = img
	}
	for name, img := range all {
		t.Run(name, func(t *testing.T) {
			dev := device(t, img)
			for round := range 40 {
				x := &scratched{Device: dev, seed: uint64(round), every: int64(1+round%40) * 4096}
				for _, r := range readers {
					if !r.probe(x) {
						continue
					}
					f, err := r.open(x)
					if err == nil {
						err = consume(f)
					}
					var damage *tree.DamageError
					var unsupported *tree.UnsupportedError
					if err != nil && !errors.As(err, &damage) && !errors.As(err, &unsupported) && !errors.Is(err, io.EOF) {
						t.Errorf("round %d: %v", round, err)
					}
				}
			}
		})
	}
}

// scratched is a device with wrong bytes, always the same, about one in every.
type scratched struct {
	tree.Device
	seed  uint64
	every int64
}

func (s *scratched) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.Device.ReadAt(p, off)
	for b := off / s.every; b*s.every < off+int64(n); b++ {
		r := rand.New(rand.NewPCG(s.seed, uint64(b)))
		at := b*s.every + r.Int64N(s.every) - off
		if at >= 0 && at < int64(n) && r.IntN(2) == 0 {
			p[at] ^= byte(1 << r.IntN(8))
		}
	}
	return n, err
}
