package cmdline

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// OfProcess reads the command line of a running QEMU, and the folder from which relative paths in it are; one that was started with -daemonize has left that folder.
func OfProcess(pid int) (l Line, dir string, err error) {
	proc := fmt.Sprintf("/proc/%d", pid)
	text, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err == nil {
		dir, err = os.Readlink(filepath.Join(proc, "cwd"))
	}
	if err == nil {
		l, err = Parse(strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00"))
	}
	if err != nil {
		return l, "", fmt.Errorf("read the command line of process %d: %w", pid, err)
	}
	return l, dir, nil
}
