package index

import (
	"context"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/rephub/rephub/internal/vfs"
)

// benchSet holds n random 4 KiB writes over twice that many blocks, in
// segments of 64 MiB. RECORDS overrides n.
func benchSet(b *testing.B, n int) (*Set, int64) {
	if v, err := strconv.Atoi(os.Getenv("RECORDS")); err == nil {
		n = v
	}
	s, err := OpenSet(vfs.OS(), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	const perSegment = 16000
	blocks := int64(n) * 2
	rng := rand.New(rand.NewPCG(1, 2))
	m := NewMem()
	s.SetActive(m)
	for i := range n {
		seg := uint32(i/perSegment) + 1
		m.Add(Extent{Volume: 1, Off: rng.Int64N(blocks) * 4096, Len: 4096, Seq: uint64(i + 1), Segment: seg, Pos: int64(i%perSegment) * 4144})
		if i%perSegment == perSegment-1 {
			if err := s.Install(seg, m); err != nil {
				b.Fatal(err)
			}
			m = NewMem()
			s.SetActive(m)
			for did := true; did; {
				if did, err = s.MergeOnce(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	b.Logf("%+v", s.Stats())
	return s, blocks
}

func BenchmarkLookup4K(b *testing.B) {
	s, blocks := benchSet(b, 1_000_000)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		var buf [8]Piece
		rng := rand.New(rand.NewPCG(rand.Uint64(), 3))
		for pb.Next() {
			if _, err := s.Lookup(1, rng.Int64N(blocks)*4096, 4096, ^uint64(0), 0, buf[:0]); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkLookup1M(b *testing.B) {
	s, blocks := benchSet(b, 1_000_000)
	buf := make([]Piece, 0, 1024)
	rng := rand.New(rand.NewPCG(rand.Uint64(), 3))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Lookup(1, rng.Int64N(blocks-256)*4096, 1<<20, ^uint64(0), 0, buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMemAdd(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	m := NewMem()
	for i := 0; b.Loop(); i++ {
		if i&0xffff == 0 {
			m = NewMem()
		}
		m.Add(Extent{Volume: 1, Off: rng.Int64N(1<<22) * 4096, Len: 4096, Seq: uint64(i + 1), Segment: 1, Pos: int64(i)})
	}
}

// BenchmarkOpen opens a set and looks one block up. It reports the anonymous
// memory that an open set adds.
func BenchmarkOpen(b *testing.B) {
	built, blocks := benchSet(b, 1_000_000)
	dir := built.dir
	if err := built.Close(); err != nil {
		b.Fatal(err)
	}
	runtime.GC()
	debug.FreeOSMemory()
	before := anonymous(b)
	rng := rand.New(rand.NewPCG(5, 6))
	for b.Loop() {
		s, err := OpenSet(vfs.OS(), dir)
		if err != nil {
			b.Fatal(err)
		}
		for range 1000 {
			if _, err := s.Lookup(1, rng.Int64N(blocks)*4096, 4096, ^uint64(0), 0, nil); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(anonymous(b)-before)/(1<<20), "MiB-anon")
		s.Close()
	}
}

// anonymous is the process's anonymous memory in bytes.
func anonymous(b *testing.B) int64 {
	p, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(p), "RssAnon:")
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return kib << 10
}
