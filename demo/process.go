package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// adoptOrphans makes every process that any of ours starts and leaves behind,
// detached or not, a child of this one: so none can escape leftovers.
func adoptOrphans() error {
	return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}

// process is one line of the process table.
type process struct {
	pid, parent int
	zombie      bool
}

// leftovers are the living processes below this one. Adopted ones that have
// ended are reaped on the way, so it must only be called when every command we
// started ourselves has been waited for.
func leftovers() []process {
	var below []process
	mine := map[int]bool{os.Getpid(): true}
	table := processTable()
	for grown := true; grown; {
		grown = false
		for _, p := range table {
			if mine[p.parent] && !mine[p.pid] {
				mine[p.pid], grown = true, true
				below = append(below, p)
			}
		}
	}
	alive := below[:0]
	for _, p := range below {
		if p.zombie {
			_, _ = syscall.Wait4(p.pid, nil, syscall.WNOHANG, nil)
			continue
		}
		alive = append(alive, p)
	}
	return alive
}

func processTable() []process {
	var table []process
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended meanwhile
		}
		// pid (name) state parent …; the name may hold anything, even ")".
		i := bytes.LastIndexByte(data, ')')
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		fields := strings.Fields(string(data[i+1:]))
		if err != nil || i < 0 || len(fields) < 2 {
			continue
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			continue
		}
		table = append(table, process{pid: pid, parent: parent, zombie: fields[0] == "Z"})
	}
	return table
}

// command is how p was started, for messages.
func (p process) command() string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
	args := strings.ReplaceAll(strings.TrimRight(string(data), "\x00"), "\x00", " ")
	return fmt.Sprintf("%d: %s", p.pid, args)
}

// waitForNone waits until no process is left below this one and returns those
// that still are there after limit.
func waitForNone(limit time.Duration) []process {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(limit)
	for range tick.C {
		left := leftovers()
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
	return nil
}

// killAll ends what is left, whatever it takes. Each is named by its id.
func killAll(left []process) {
	for _, p := range left {
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
	_ = waitForNone(5 * time.Second)
}
