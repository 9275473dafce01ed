package index

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/crashfs"
	"github.com/rephub/rephub/internal/vfs/errorfs"
)

const faultDir = "/index"

// fill installs segments first … last, of a few extents each, and returns them.
func fill(t *testing.T, s *Set, first, last uint32) (all []Extent) {
	t.Helper()
	for seg := first; seg <= last; seg++ {
		m, es := segment(seg)
		if err := s.Install(seg, m); err != nil {
			t.Fatal(err)
		}
		all = append(all, es...)
	}
	return all
}

func segment(seg uint32) (*Mem, []Extent) {
	m := NewMem()
	var es []Extent
	for i := range uint64(20) {
		e := Extent{Volume: 1, Off: int64(i) * 4096, Len: 700 + 3000*int64(i%2), Seq: uint64(seg)*20 + i, Segment: seg, Pos: 4096 + int64(i)*4000, Zero: i == 7}
		m.Add(e)
		es = append(es, e)
	}
	return m, es
}

func verifyAll(t *testing.T, s *Set, all []Extent) {
	t.Helper()
	for _, at := range []uint64{all[0].Seq, all[len(all)/2].Seq, all[len(all)-1].Seq} {
		got, err := s.Lookup(1, 0, 100000, at, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := compare(all, got, 1, 0, 100000, at, 0); err != nil {
			t.Fatalf("at %d: %v", at, err)
		}
	}
	if err := s.Verify(); err != nil {
		t.Fatal(err)
	}
}

// mend installs what is missing, as the journal does when it opens.
func mend(t *testing.T, s *Set, last uint32) {
	t.Helper()
	have := map[uint32]bool{}
	for _, seg := range s.Segments() {
		if have[seg] {
			t.Fatalf("segment %d is there twice", seg)
		}
		have[seg] = true
	}
	for seg := uint32(1); seg <= last; seg++ {
		if !have[seg] {
			m, _ := segment(seg)
			if err := s.Install(seg, m); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestEveryIOFails fails each I/O of installs, a merge and a drop in turn: the
// set answers right all the time, the step succeeds when repeated, and so does
// everything after another open.
func TestEveryIOFails(t *testing.T) {
	boom := errors.New("boom")
	for n := int64(1); ; n++ {
		mem := crashfs.New()
		must(t, mem.MkdirAll(faultDir, 0o700))
		s, err := OpenSet(mem, faultDir)
		must(t, err)
		all := fill(t, s, 1, 7)
		must(t, s.Close())
		decide, fired := errorfs.Nth(n, errorfs.All, boom)
		fs := errorfs.New(mem, decide)
		if s, err = OpenSet(fs, faultDir); err != nil {
			if s, err = OpenSet(fs, faultDir); err != nil {
				t.Fatalf("I/O %d: second open: %v", n, err)
			}
		}
		m, es := segment(8)
		all = append(all, es...)
		s.SetActive(m)
		repeat(t, func() error { return s.Install(8, m) })
		verifyAll(t, s, all)
		repeat(t, func() error { _, err := s.MergeOnce(context.Background()); return err })
		verifyAll(t, s, all)
		s.Close()
		s, err = OpenSet(mem, faultDir)
		must(t, err)
		mend(t, s, 8)
		verifyAll(t, s, all)
		must(t, s.Close())
		if !fired() {
			if n < 20 {
				t.Fatalf("only %d I/Os", n)
			}
			return
		}
	}
}

func repeat(t *testing.T, fn func() error) {
	t.Helper()
	if fn() == nil {
		return
	}
	must(t, fn())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestPowerLossAtEverySync pulls the plug before each sync of installs, merges
// and a drop.
func TestPowerLossAtEverySync(t *testing.T) {
	mem := crashfs.New()
	must(t, mem.MkdirAll(faultDir, 0o700))
	s, err := OpenSet(mem, faultDir)
	must(t, err)
	var images []*crashfs.FS
	mem.OnSync(func(string) error {
		for seed := range uint64(3) {
			images = append(images, mem.Crash(seed))
		}
		return nil
	}, false)
	all := fill(t, s, 1, 8)
	_, err = s.MergeOnce(context.Background())
	must(t, err)
	must(t, s.Close())
	for _, fs := range images {
		mem.OnSync(nil, false)
		s, err := OpenSet(fs, faultDir)
		must(t, err)
		mend(t, s, 8)
		verifyAll(t, s, all)
		must(t, s.Close())
	}
	if len(images) < 40 {
		t.Fatalf("%d power losses", len(images))
	}
}

// TestFlippedByte damages every part of a file: it is never believed.
func TestFlippedByte(t *testing.T) {
	fs := crashfs.New()
	must(t, fs.MkdirAll(faultDir, 0o700))
	s, err := OpenSet(fs, faultDir)
	must(t, err)
	all := fill(t, s, 1, 8)
	_, err = s.MergeOnce(context.Background())
	must(t, err)
	must(t, s.Close())
	name := fileName(faultDir, 1, 8)
	good, err := vfs.ReadFile(fs, name, 1<<20)
	must(t, err)
	for off := 0; off < len(good); off += 97 {
		if off >= headerSize && off < blockSize {
			continue // nothing is kept there
		}
		bad := slices.Clone(good)
		bad[off] ^= 0x10
		fs := crashfs.New()
		must(t, fs.MkdirAll(faultDir, 0o700))
		must(t, vfs.WriteFileAtomic(fs, name, bad, 0o600))
		s, err := OpenSet(fs, faultDir)
		must(t, err)
		if len(s.Repairs()) > 0 && len(s.Segments()) > 0 {
			t.Fatalf("byte %d: segments %v", off, s.Segments())
		}
		if len(s.Repairs()) == 0 {
			lookUpDamaged(t, s, all, off)
		}
		must(t, s.Close())
		s, err = OpenSet(fs, faultDir)
		must(t, err)
		mend(t, s, 8)
		verifyAll(t, s, all)
		must(t, s.Close())
	}
}

// lookUpDamaged expects the right answer or an error, and that Verify sees the damage.
func lookUpDamaged(t *testing.T, s *Set, all []Extent, off int) {
	t.Helper()
	got, err := s.Lookup(1, 0, 100000, 1000, 0, nil)
	if err == nil {
		err = compare(all, got, 1, 0, 100000, 1000, 0)
	} else if errors.Is(err, ErrCorrupt) {
		err = nil
	}
	if err != nil {
		t.Fatalf("byte %d: %v", off, err)
	}
	if err := s.Verify(); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("byte %d: %v", off, err)
	}
}

// TestTruncatedUnderMap: a page that cannot be read is an error, not the end
// of the process.
func TestTruncatedUnderMap(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenSet(vfs.OS(), dir)
	must(t, err)
	fill(t, s, 1, 1)
	must(t, os.Truncate(fileName(dir, 1, 1), blockSize))
	if _, err := s.Lookup(1, 0, 4096, 1000, 0, nil); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "cannot be read") {
		t.Fatalf("got %v", err)
	}
	must(t, s.Close())
}

// TestConcurrent looks up while another goroutine adds, seals, merges and drops.
func TestConcurrent(t *testing.T) {
	s, err := OpenSet(vfs.OS(), t.TempDir())
	must(t, err)
	done := make(chan struct{})
	errs := make(chan error, 2)
	all := fill(t, s, 1, 1)
	for range cap(errs) {
		go func() {
			buf := make([]Piece, 0, 64)
			for {
				select {
				case <-done:
					errs <- nil
					return
				default:
				}
				got, err := s.Lookup(1, 0, 100000, all[len(all)-1].Seq, 0, buf)
				if err == nil {
					err = compare(all, got, 1, 0, 100000, all[len(all)-1].Seq, 0)
				}
				if err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	for seg := uint32(2); seg < 80; seg++ {
		m := NewMem()
		s.SetActive(m)
		_, es := segment(seg)
		for _, e := range es {
			m.Add(e)
		}
		must(t, s.Install(seg, m))
		_, err := s.MergeOnce(context.Background())
		must(t, err)
	}
	close(done)
	for range cap(errs) {
		must(t, <-errs)
	}
	must(t, s.Close())
	if _, err := s.Lookup(1, 0, 1, 1, 0, nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}
