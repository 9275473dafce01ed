//go:build !race

// The race detector makes sync.Pool forget at random, so that allocations
// cannot be counted with it.

package index

import (
	"testing"

	"github.com/rephub/rephub/internal/vfs"
)

// TestLookupDoesNotAllocate holds the hot path to its promise.
func TestLookupDoesNotAllocate(t *testing.T) {
	s, err := OpenSet(vfs.OS(), t.TempDir())
	must(t, err)
	defer s.Close()
	fill(t, s, 1, 12)
	buf := make([]Piece, 0, 64)
	if n := testing.AllocsPerRun(200, func() {
		if _, err := s.Lookup(1, 4096, 8192, 150, 0, buf); err != nil {
			t.Error(err)
		}
	}); n >= 1 {
		t.Fatalf("%v allocations", n)
	}
}
