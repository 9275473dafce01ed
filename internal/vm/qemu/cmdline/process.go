package cmdline

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// OfProcess reads the command line of a running QEMU.
func OfProcess(pid int) (Line, error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	text, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return Line{}, fmt.Errorf("read the command line of process %d: %w", pid, err)
	}
	l, err := Parse(strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00"))
	if err != nil {
		return Line{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return l, nil
}
