package keeper

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// proc is another process, by a descriptor that never comes to mean a later one of the same number.
type proc struct{ stat *os.File }

func openProc(pid int) (proc, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return proc{}, fmt.Errorf("open process %d: %w", pid, err)
	}
	return proc{f}, nil
}

// Close forgets the process.
func (p proc) Close() error { return p.stat.Close() }

// stopped reports whether a signal has stopped it. (A debugger's stop counts too: the VM waits no less.)
func (p proc) stopped() bool {
	var buf [512]byte
	n, _ := p.stat.ReadAt(buf[:], 0)
	s := stateOf(buf[:n])
	return s == 'T' || s == 't'
}

// stateOf is the state in a stat file of /proc, 0 if there is none.
func stateOf(stat []byte) byte {
	// PID (NAME) STATE …; the name may hold anything.
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 || i+2 >= len(stat) {
		return 0
	}
	return stat[i+2]
}

// runQueue tells whether the threads of another process get a processor when they want one.
type runQueue struct {
	pid  int
	last map[string]schedstat // by thread
}

// schedstat is how long a thread has run, and waited to run.
type schedstat struct{ ran, waited time.Duration }

// waits reports whether a thread has waited for a processor for a good part of the time since the last look. Without one, for a new
// thread, or where the kernel does not tell, it is false.
func (q *runQueue) waits(since time.Duration) bool {
	now, found := make(map[string]schedstat), false
	dir := filepath.Join("/proc", strconv.Itoa(q.pid), "task")
	threads, _ := os.ReadDir(dir)
	for _, t := range threads {
		text, err := os.ReadFile(filepath.Join(dir, t.Name(), "schedstat"))
		if err != nil {
			continue // it has ended
		}
		var s schedstat
		if _, err := fmt.Sscan(string(text), &s.ran, &s.waited); err != nil {
			continue
		}
		now[t.Name()] = s
		before, ok := q.last[t.Name()]
		if !ok {
			continue
		}
		if s.waited-before.waited >= since/4 {
			found = true
		} else if s.ran-before.ran < since/4 { // a wait counts when it is over
			stat, _ := os.ReadFile(filepath.Join(dir, t.Name(), "stat"))
			found = found || stateOf(stat) == 'R'
		}
	}
	q.last = now
	return found
}
