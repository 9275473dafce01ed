//go:build !race

// The race detector makes sync.Pool forget at random, so that allocations
// cannot be counted with it.

package replica

import "testing"

// TestReadsDoNotAllocate holds the hot path to its promise.
func TestReadsDoNotAllocate(t *testing.T) {
	w := newWorld(t, 600)
	w.history(100)
	v, err := w.s.View(1, w.s.Log().Appended())
	must(t, err)
	p := make([]byte, 8192)
	if n := testing.AllocsPerRun(200, func() {
		if _, err := v.ReadAt(p, 2048); err != nil {
			t.Error(err)
		}
	}); n >= 1 {
		t.Fatalf("%v allocations", n)
	}
	must(t, v.Close())
}
