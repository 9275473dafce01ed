package index

import (
	"errors"
	"hash/crc32"
	"math"
	"os"
	"testing"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/crashfs"
)

// reseal makes the checksums of a file right, so that what is behind them is
// reached too.
func reseal(p []byte) {
	if len(p) < blockSize {
		return
	}
	off, sections := le.Uint64(p[24+8*7:]), uint64(le.Uint32(p[96:]))
	if off <= uint64(len(p)) && off >= blockSize && sections < 1000 && off+sections*sectionSize <= uint64(len(p)) {
		trailer := p[off:]
		for b := uint64(1); b < off>>blockShift; b++ {
			at := sections*sectionSize + 4*(b-1)
			if at+4 <= uint64(len(trailer)) {
				le.PutUint32(trailer[at:], crc32.Checksum(p[b<<blockShift:(b+1)<<blockShift], castagnoli))
			}
		}
		le.PutUint32(p[104:], crc32.Checksum(trailer, castagnoli))
	}
	le.PutUint32(p[124:], crc32.Checksum(p[:124], castagnoli))
}

// FuzzFile opens any bytes as an index file, with right and wrong checksums:
// an error, or answers that cover what was asked; never a panic.
func FuzzFile(f *testing.F) {
	dir := f.TempDir()
	s, err := OpenSet(vfs.OS(), dir)
	if err != nil {
		f.Fatal(err)
	}
	m, _ := segment(1)
	m.Add(Extent{Volume: 2, Off: 0, Len: 5 << 30, Seq: 99, Zero: true, Segment: 1, Pos: 1 << 20})
	if err := s.Install(1, m); err != nil {
		f.Fatal(err)
	}
	seed, err := os.ReadFile(fileName(dir, 1, 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed, true)
	f.Add(seed, false)
	f.Add(seed[:blockSize], true)
	for _, off := range []int{17, 40, 50, 60, 90, 98, blockSize + 1, blockSize + 30, 2*blockSize + 1, 3 * blockSize, len(seed) - 40, len(seed) - 200, len(seed) - 260} {
		bad := append([]byte(nil), seed...)
		bad[off] ^= 0xff
		f.Add(bad, true)
	}
	f.Fuzz(func(t *testing.T, p []byte, fix bool) {
		if fix {
			reseal(p)
		}
		fs := crashfs.New()
		must(t, fs.MkdirAll(faultDir, 0o700))
		must(t, vfs.WriteFileAtomic(fs, fileName(faultDir, 1, 1), p, 0o600))
		s, err := OpenSet(fs, faultDir)
		must(t, err)
		defer s.Close()
		for vol := range uint32(3) {
			for _, n := range []int64{1, 4096, 1 << 20, 6 << 30} {
				got, err := s.Lookup(vol, 0, n, math.MaxUint64, 0, nil)
				if err != nil {
					if !errors.Is(err, ErrCorrupt) {
						t.Fatal(err)
					}
					continue
				}
				next := int64(0)
				for _, x := range got {
					if x.Off != next || x.Len <= 0 {
						t.Fatalf("piece %+v after %d", x, next)
					}
					next += x.Len
				}
				if next != n {
					t.Fatalf("%d of %d bytes are covered", next, n)
				}
			}
		}
	})
}
