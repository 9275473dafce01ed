package interop

import (
	"testing"

	"github.com/rephub/rephub/nbd"
)

// TestFioVerify writes and verifies at depth, in mixed sizes.
func TestFioVerify(t *testing.T) {
	uri := "nbd+unix:///disk?socket=" + serve(t, newMemory(16<<20), nbd.ServerConfig{})
	run(t, "fio", "--name=v", "--ioengine=nbd", "--uri="+uri, "--rw=randwrite", "--bsrange=512-128k", "--bs_unaligned=0", "--iodepth=32",
		"--size=16m", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--output-format=json")
}
