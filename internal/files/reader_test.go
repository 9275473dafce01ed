package files

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/recovery"
	"github.com/rephub/rephub/journal"
)

// The test binary is the reader, and what a reader must never do.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 {
		os.Exit(2)
	}
	switch os.Args[1] {
	case "file-reader":
		if err := Main(context.Background(), os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	case "greedy":
		misbehave(func() {
			var all [][]byte
			for {
				all = append(all, bytes.Repeat([]byte{1}, 1<<20))
			}
		})
	case "endless":
		misbehave(func() {
			for {
			}
		})
	case "panics":
		misbehave(func() { panic("no") })
	case "curious":
		misbehave(func() {
			_, err := os.Open("/etc/passwd")
			fmt.Fprintf(os.Stderr, "open: %v, uid %d", err, os.Getuid())
			os.Exit(3)
		})
	}
	goleak.VerifyTestMain(m)
}

func misbehave(f func()) {
	if err := confine(); err != nil {
		fmt.Fprint(os.Stderr, err)
		os.Exit(4)
	}
	f()
}

// images is a group whose volumes are files.
type images struct {
	t      *testing.T
	names  []string
	files  map[string]string
	hang   chan struct{} // reads wait for it; nil: they do not
	pinned int
}

func (g *images) ID() journal.GroupID { return journal.GroupID{} }
func (g *images) Name() string        { return "shop" }
func (g *images) Pin(journal.Seq) (func(), error) {
	g.pinned++
	return func() { g.pinned-- }, nil
}
func (g *images) Volumes(journal.Seq) (all []recovery.Volume, err error) {
	for i, name := range g.names {
		all = append(all, recovery.Volume{ID: journal.VolumeID(i), Name: name})
	}
	return all, nil
}
func (g *images) View(id journal.VolumeID, _ journal.Seq) (recovery.View, error) {
	f, err := os.Open(g.files[g.names[id]])
	return &imageView{File: f, hang: g.hang}, err
}

type imageView struct {
	*os.File
	hang chan struct{}
}

func (v *imageView) ReadAtContext(ctx context.Context, p []byte, off int64) (int, error) {
	if v.hang != nil {
		select {
		case <-v.hang:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return v.ReadAt(p, off)
}
func (v *imageView) Size() int64 {
	st, err := v.Stat()
	if err != nil {
		return 0
	}
	return st.Size()
}
func (v *imageView) Extents(int64, int64) ([]block.Extent, error) { return nil, errors.ErrUnsupported }

func groupOf(t *testing.T, nameFile ...string) *images {
	t.Helper()
	g := &images{t: t, files: map[string]string{}}
	for i := 0; i < len(nameFile); i += 2 {
		g.names = append(g.names, nameFile[i])
		g.files[nameFile[i]] = nameFile[i+1]
	}
	t.Cleanup(func() {
		if g.pinned != 0 {
			t.Errorf("%d pins are left", g.pinned)
		}
	})
	return g
}

// small makes an ext4 image with some files.
func small(t *testing.T) string {
	t.Helper()
	img := image(t, 16<<20)
	src := t.TempDir()
	for name, p := range map[string][]byte{"etc/fstab": []byte("/dev/sda1 / ext4\n"), "etc/big": noise(1, 2<<20), "home/anna/letter": []byte("dear all")} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(src, name)), 0o755), os.WriteFile(filepath.Join(src, name), p, 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	for from, to := range map[string]string{"mail": "home/anna/letter", "up": "../../..//etc/./fstab", "loop": "loop", "gone": "nowhere"} {
		if err := os.Symlink(to, filepath.Join(src, from)); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "mkfs.ext4", "-qF", "-d", src, img)
	return img
}

func kindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

func TestReader(t *testing.T) {
	img := small(t)
	g := groupOf(t, "web/disk0", img, "web/disk1", image(t, 1<<20), "db/disk0", small(t))
	r := New(Config{})
	ctx := t.Context()
	a, err := r.List(ctx, g, 1, "")
	if err != nil || len(a.Places) != 3 || !a.Places[0].Readable || a.Places[0].Type != "ext4" || a.Places[1].Readable || a.Places[1].Type != "unknown" {
		t.Fatalf("places %+v, %v", a, err)
	}
	for path, want := range map[string]Kind{
		"/etc": Ambiguous, "web:/etc": "", "web/disk0:/etc": "", "web/disk0": "", "web/disk1:/": Unsupported, "we:/etc": NotFound, "web/disk0:/nix": NotFound,
		"web:/loop": NotFile, "web:/etc/fstab/x": NotFound, "nix": NotFound, "web/disk0:/gone": "",
	} {
		if _, err := r.List(ctx, g, 1, path); kindOf(err) != want || want == "" && err != nil {
			t.Errorf("list %s: %v, want %q", path, err, want)
		}
	}
	for path, want := range map[string]Kind{
		"web:/etc": IsDirectory, "web:/gone": NotFound, "web:/mail": "", "web:/up": "", "/etc/fstab": Ambiguous,
	} {
		s, err := r.Open(ctx, g, 1, path, 0)
		if kindOf(err) != want || want == "" && err != nil {
			t.Errorf("open %s: %v, want %q", path, err, want)
		}
		if err == nil {
			s.Close()
		}
	}
	s, err := r.Open(ctx, g, 1, "web:/etc/big", 1000)
	if err != nil {
		t.Fatal(err)
	}
	p, err := io.ReadAll(s)
	if s.Close(); err != nil || !bytes.Equal(p, noise(1, 2<<20)[1000:]) || s.Answer.File.Size != 2<<20 {
		t.Errorf("%d bytes, %v, %+v", len(p), err, s.Answer)
	}
	// Half a file, then no more of it.
	if s, err = r.Open(ctx, g, 1, "web:/etc/big", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, make([]byte, 1<<20)); err != nil {
		t.Error(err)
	}
	s.Close()
	if s, err = r.OpenTar(ctx, g, 1, "db:/home"); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var names []string
	for tr := tar.NewReader(s); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	if got := strings.Join(names, " "); got != "home/ home/anna/ home/anna/letter" {
		t.Errorf("tar has %s", got)
	}
}

// A listing says when it is not all.
func TestLimit(t *testing.T) {
	a, err := New(Config{Limit: 2}).List(t.Context(), groupOf(t, "web/disk0", small(t)), 1, "/")
	if err != nil || len(a.Entries) != 2 || !a.More {
		t.Errorf("%+v, %v", a, err)
	}
}

// Only the reader dies of what it reads.
func TestMisbehaving(t *testing.T) {
	for _, tc := range []struct{ what, want string }{
		{"greedy", "takes more than"}, {"endless", "was ended"}, {"panics", "has failed"}, {"curious", "has failed"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			r := New(Config{Args: []string{tc.what}, Patience: 5 * time.Second})
			g := groupOf(t, "web/disk0", image(t, 1<<20))
			s, err := r.start(t.Context(), g, 1, request{Op: opList})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := s.answer(); kindOf(err) != Ended || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v; it said %s", err, s.stderr.String())
			}
			if said := s.stderr.String(); tc.what == "curious" && (!strings.Contains(said, "too many open files") || os.Getuid() == 0 && !strings.Contains(said, "uid 65534")) {
				t.Errorf("it is not confined: %s", said)
			}
		})
	}
}

// A volume that does not answer holds up one request, until somebody gives up.
func TestHang(t *testing.T) {
	g := groupOf(t, "web/disk0", small(t))
	g.hang = make(chan struct{})
	if _, err := New(Config{Patience: 200 * time.Millisecond}).List(t.Context(), g, 1, "/"); kindOf(err) != Ended {
		t.Errorf("got %v", err)
	}
	r := New(Config{Most: 1})
	ctx, cancel := context.WithCancel(t.Context())
	s, err := r.start(ctx, g, 1, request{Op: opList})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.List(ctx, g, 1, "/"); kindOf(err) != Busy {
		t.Errorf("the second got %v", err)
	}
	cancel()
	if err := s.answer(); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	s.Close()
	close(g.hang)
	if _, err := r.List(t.Context(), g, 1, "/"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
