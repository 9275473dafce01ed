package keeper

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// Linux scheduling policies, and what GiveWay asks for.
const (
	schedOther = 0
	schedBatch = 3

	giveWaySlice = 100_000_000 // ns; the longest that the kernel allows
	giveWayNice  = 10
)

// GiveWay makes this process work behind the VMs and the keeper of its host: it does not interrupt who runs, and who wakes up interrupts it.
// Its share of busy processors becomes a tenth of a VM's, never nothing; on idle ones it is as fast as before. What it starts
// inherits that, but for a keeper. Without the right to take it back (CAP_SYS_NICE) the share stays as it is.
//
// A process that handles the writes of a VM in bursts, and did not do so, would make the VM wait for the end of a burst: up to
// 4 ms with the usual 250 Hz timer. The long slice works from Linux 6.12 on, the rest everywhere.
func GiveWay() error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: schedBatch, Runtime: giveWaySlice}
	was, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return fmt.Errorf("read the scheduling policy: %w", err)
	}
	if attr.Nice = was.Nice; was.Nice < giveWayNice && mayRaise() {
		attr.Nice = giveWayNice
	}
	return scheduleAll(attr)
}

// goBefore takes back a GiveWay of who started this process.
func goBefore() error {
	was, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return fmt.Errorf("read the scheduling policy: %w", err)
	}
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: schedOther, Nice: min(was.Nice, 0)}
	err = scheduleAll(attr)
	if errors.Is(err, unix.EPERM) {
		attr.Nice = was.Nice
		err = scheduleAll(attr)
	}
	return err
}

// mayRaise tries whether a thread that made itself nicer can take it back.
func mayRaise() bool {
	may := make(chan bool)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		was, err := unix.SchedGetAttr(0, 0)
		if err != nil {
			may <- false
			return
		}
		nicer := *was
		nicer.Nice = min(was.Nice+1, 19)
		may <- unix.SchedSetAttr(0, &nicer, 0) == nil && unix.SchedSetAttr(0, was, 0) == nil
	}()
	return <-may
}

// scheduleAll sets the policy of every thread. Later ones inherit it; one that an earlier thread starts meanwhile is seen by the next look.
func scheduleAll(attr unix.SchedAttr) error {
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
			if err := unix.SchedSetAttr(tid, &attr, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("set the scheduling policy: %w", err)
			}
			done[tid], again = true, true
		}
	}
	return nil
}
