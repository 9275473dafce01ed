package interop

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rephub/rephub/nbd"
)

// TestNbdcopy copies into our server over several connections, and out of it.
func TestNbdcopy(t *testing.T) {
	want := sparse(16<<20, 1)
	m := newMemory(len(want))
	uri := "nbd+unix:///disk?socket=" + serve(t, m, nbd.ServerConfig{})
	run(t, "nbdcopy", "--flush", write(t, "in", want), uri)
	same(t, m.content(), want)
	out := filepath.Join(dir(t), "out")
	run(t, "nbdcopy", uri, out)
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, want)
}
