// Package giveway has a process let the VMs of its host go first. Its functions are about the whole process, and meant for daemons that handle
// a VM's writes in bursts; what is never called changes nothing.
package giveway

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// longSlice is what Begin asks for, in ns; the longest that the kernel allows.
const longSlice = 100_000_000

// Begin makes this process let the VMs and the keeper of its host go first: it does not interrupt who runs, and who wakes up interrupts it.
// Its share of busy processors stays as it was. What it starts inherits that, but for what First starts. A process that runs under another policy
// than the usual one was given it by somebody, and keeps it.
//
// A process that handles the writes of a VM in bursts, and did not do so, would make the VM wait for the end of a burst: up to
// 4 ms with the usual 250 Hz timer. The long slice works from Linux 6.12 on, the rest everywhere.
func Begin() error {
	was, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return fmt.Errorf("read the scheduling policy: %w", err)
	}
	if was.Policy != unix.SCHED_NORMAL {
		return nil
	}
	err = eachThread(func(tid int) error {
		return unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_BATCH, Runtime: longSlice, Nice: was.Nice}, 0)
	})
	yields.Store(err == nil)
	return err
}

// First calls do in a thread that goes before this process, if that gives way, and with it what do starts. It returns when do has.
// denied says why the thread does not.
func First(do func(denied error)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, and its priority with it
		do(takeBack())
	}()
	<-done
}

// takeBack takes back Begin and HalveProcessors for the calling thread.
func takeBack() error {
	was, err := unix.SchedGetAttr(0, 0)
	if err == nil && was.Policy == unix.SCHED_BATCH {
		err = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: was.Nice}, 0)
	}
	if err != nil {
		return fmt.Errorf("take back the scheduling policy: %w", err)
	}
	given.Lock()
	defer given.Unlock()
	if given.set.Count() == 0 {
		return nil
	}
	if err := unix.SchedSetaffinity(0, &given.set); err != nil {
		return fmt.Errorf("take back the processors: %w", err)
	}
	return nil
}

// eachThread calls do for every thread. Later ones inherit what it sets; one that an earlier thread starts meanwhile is seen by the next look.
func eachThread(do func(tid int) error) error {
	done := make(map[int]bool)
	for again := true; again; {
		again = false
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("list the threads: %w", err)
		}
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil || done[tid] {
				continue
			}
			if err := do(tid); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("change how a thread is scheduled: %w", err)
			}
			done[tid], again = true, true
		}
	}
	return nil
}
