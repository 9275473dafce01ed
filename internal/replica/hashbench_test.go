package replica

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/digest"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
)

// BenchmarkHashes hashes a base image that is in the page cache, and asks for
// hashes that are kept.
func BenchmarkHashes(b *testing.B) {
	const size = 1 << 30
	s, err := Create(vfs.OS(), filepath.Join(b.TempDir(), "g"), Manifest{ID: journal.GroupID{1}, Volumes: []Volume{{ID: 1, Size: size}}}, Config{})
	must(b, err)
	defer s.Close()
	base, err := s.Base(1)
	must(b, err)
	p := make([]byte, 1<<20)
	for i := range p {
		p[i] = byte(i*i>>7 + i)
	}
	for off := int64(0); off < size; off += int64(len(p)) {
		_, err := base.WriteAt(p, off)
		must(b, err)
	}
	must(b, base.Sync())
	must(b, s.SetSyncProgress(1, size))
	must(b, s.Log().AppendControl(0, journal.VolumeAdded{Volume: 1, Size: size}))
	must(b, s.Log().AppendControl(1, journal.Attach{Seq: 10}))
	_, err = s.Log().Sync()
	must(b, err)
	h, err := s.Hashes(1)
	must(b, err)
	run := func(b *testing.B, before func()) {
		var sums []digest.Sum
		b.SetBytes(size)
		for b.Loop() {
			before()
			for off := int64(0); off < size; off += hashStep {
				sums, err = h.Pieces(b.Context(), block.Range{Off: off, Len: hashStep}, sums[:0])
				must(b, err)
			}
		}
	}
	b.Run("hashed", func(b *testing.B) {
		run(b, func() {
			if err := os.Truncate(h.file.name, hashPage); err != nil && !os.IsNotExist(err) {
				b.Fatal(err)
			}
		})
	})
	b.Run("kept", func(b *testing.B) { run(b, func() {}) })
}
