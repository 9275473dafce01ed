package interop

import (
	"bytes"
	"testing"

	"github.com/rephub/rephub/nbd"
)

// TestQemuIO makes requests of every kind, among them unaligned ones, FUA and a refused one.
func TestQemuIO(t *testing.T) {
	m := newMemory(4 << 20)
	uri := "nbd+unix:///disk?socket=" + serve(t, m, nbd.ServerConfig{})
	run(t, "qemu-io", "-f", "raw", "-c", "write -P 7 1 1000000", "-c", "write -f -P 8 512 512", "-c", "write -z -u 2M 64k", "-c", "discard 3M 1M",
		"-c", "aio_write -P 9 1M 64k", "-c", "aio_write -P 9 2M 64k", "-c", "aio_flush", "-c", "read -P 7 1 511", "-c", "read -P 8 512 512",
		"-c", "read -P 9 1M 64k", "-c", "read -P 0 2162688 1000", "-c", "flush", uri)
	got := m.content()
	same(t, got[1:512], bytes.Repeat([]byte{7}, 511))
	same(t, got[512:1024], bytes.Repeat([]byte{8}, 512))
	same(t, got[2<<20:2<<20+65536], bytes.Repeat([]byte{9}, 65536))
}
