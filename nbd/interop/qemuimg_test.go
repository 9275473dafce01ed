package interop

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rephub/rephub/nbd"
)

// TestQemuImgConvert converts into our server and out of it, and compares.
func TestQemuImgConvert(t *testing.T) {
	want := sparse(16<<20, 2)
	m := newMemory(len(want))
	uri := "nbd+unix:///disk?socket=" + serve(t, m, nbd.ServerConfig{})
	in, out := write(t, "in", want), filepath.Join(dir(t), "out")
	run(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", in, uri)
	same(t, m.content(), want)
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", in, uri)
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", uri, out)
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, want)
}
