package vmtest

import (
	"fmt"
	"os/exec"
	"testing"
)

// Load writes at random in 4 KiB blocks, depth at a time, to an NBD URI until
// it is killed or a write fails: then it is no longer alive.
func Load(t testing.TB, uri string, depth int) *Process {
	t.Helper()
	return start(t, "load", exec.Command("fio", "--name=load", "--thread", "--ioengine=nbd", "--uri="+uri, "--rw=randwrite", "--bs=4k",
		fmt.Sprintf("--iodepth=%d", depth), "--time_based", "--runtime=600", "--output=/dev/null"))
}

// IO runs qemu-io commands ("write -P 0x41 0 4096") on an NBD URI.
func IO(t testing.TB, uri string, commands ...string) {
	t.Helper()
	args := []string{"-f", "raw"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	if out, err := exec.Command("qemu-io", append(args, uri)...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-io %q on %s: %v: %s", commands, uri, err, out)
	}
}
