package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// writtenBytes is what a process has caused to be written to disks.
func writtenBytes(pid int) (int64, error) {
	var n int64
	_, err := fmt.Sscan(field(fmt.Sprintf("/proc/%d/io", pid), "write_bytes"), &n)
	if err != nil {
		return 0, fmt.Errorf("read the I/O counters of process %d: %w", pid, err)
	}
	return n, nil
}

// tick is the unit of /proc/PID/stat: user space always sees 100 per second.
const tick = 10 * time.Millisecond

// cpuTime is what processes have used of the cores, in user and system mode.
func cpuTime(pids ...int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		// The name, in brackets, may hold anything; the 12th and 13th fields after it count.
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		if len(fields) < 13 {
			return 0, fmt.Errorf("read the times of process %d: %q", pid, data)
		}
		for _, s := range fields[11:13] {
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read the times of process %d: %w", pid, err)
			}
			sum += time.Duration(n) * tick
		}
	}
	return sum, nil
}

// anonymous is a process's anonymous memory in bytes, without mapped files.
func anonymous(pid int) (int64, error) {
	return kilobytes(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Anonymous")
}

// proportional is a process's memory in bytes, shared pages counted by share:
// the sum over several processes counts each page once.
func proportional(pid int) (int64, error) {
	return kilobytes(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss")
}

func kilobytes(file, name string) (int64, error) {
	var kb int64
	if _, err := fmt.Sscanf(field(file, name), "%d kB", &kb); err != nil {
		return 0, fmt.Errorf("read %s of %s: %w", name, file, err)
	}
	return kb << 10, nil
}

// family is every process that has dir in its command line: a hub, its catalog
// and the keeper are told apart from others by the folder that they work in.
func family(dir string) ([]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		exe, _, _ := strings.Cut(string(data), "\x00")
		if filepath.Base(exe) == "rephub" && strings.Contains(string(data), dir) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			if err != nil {
				return nil, err
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
