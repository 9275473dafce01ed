package files

import (
	"bytes"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	memoryLimit = 384 << 20 // bytes that a reader may take beside what it begins with
	nobody      = 65534     // the user that readers are when the hub is root
	cpuSeconds  = 60        // of processor that a reader may use without giving anything
	cpuBytes    = 64 << 20  // bytes given for which it gets as many again
)

// confine takes from this process what reading does not need. What is in memory
// and the descriptors that are open stay.
func confine() error {
	debug.SetMemoryLimit(memoryLimit / 2) // collect rather than grow
	have, err := dataBytes()
	if err != nil {
		return err
	}
	limits := []struct {
		what      int
		cur, most uint64
	}{
		{unix.RLIMIT_DATA, have + memoryLimit, have + memoryLimit},
		{unix.RLIMIT_CPU, cpuSeconds, unix.RLIM_INFINITY},
		{unix.RLIMIT_FSIZE, 0, 0},
		{unix.RLIMIT_CORE, 0, 0},
		{unix.RLIMIT_NOFILE, 0, 0}, // nothing can be opened
	}
	for _, l := range limits {
		if err := unix.Setrlimit(l.what, &unix.Rlimit{Cur: l.cur, Max: l.most}); err != nil {
			return fmt.Errorf("set limit %d: %w", l.what, err)
		}
	}
	if os.Geteuid() != 0 {
		return nil
	}
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("leave groups: %w", err)
	}
	if err := syscall.Setgid(nobody); err != nil {
		return fmt.Errorf("leave group: %w", err)
	}
	if err := syscall.Setuid(nobody); err != nil {
		return fmt.Errorf("leave user: %w", err)
	}
	return nil
}

// dataBytes is what RLIMIT_DATA counts of this process by now.
func dataBytes() (uint64, error) {
	p, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(p) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmData:")); ok {
			n, err := strconv.ParseUint(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte("kB")))), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no VmData in /proc/self/status")
}

var given int // bytes, since the limit of processor time was raised

// alive says that n bytes were given, for which there is more processor time.
func alive(n int) {
	if given += n; given < cpuBytes {
		return
	}
	given = 0
	var used unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &used) == nil {
		l := unix.Rlimit{Cur: uint64(used.Utime.Sec+used.Stime.Sec) + cpuSeconds, Max: unix.RLIM_INFINITY}
		_ = unix.Setrlimit(unix.RLIMIT_CPU, &l) // without it the reader ends sooner
	}
}
