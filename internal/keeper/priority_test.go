package keeper

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// A keeper goes before the process that started it, when that gave way. An administrator's priority for both stays.
func TestKeeperGoesFirst(t *testing.T) {
	cfg := configFor(shortDir(t))
	started := make(chan error)
	go func() { // a thread of its own, which ends with the goroutine, gives way; the others stay as they are
		runtime.LockOSThread()
		attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: schedBatch, Runtime: giveWaySlice, Nice: 1}
		err := unix.SchedSetAttr(0, &attr, 0)
		if err == nil {
			err = start(testContext(t), cfg)
		}
		started <- err
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	c := ensure(t, cfg)
	for tid, attr := range policies(t, c.PID()) {
		if attr.Policy != schedOther || attr.Nice != 1 || attr.Runtime >= giveWaySlice {
			t.Errorf("thread %d of the keeper has policy %d, nice %d, slice %d", tid, attr.Policy, attr.Nice, attr.Runtime)
		}
	}
}

func policies(t *testing.T, pid int) map[int]*unix.SchedAttr {
	t.Helper()
	tasks, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "task"))
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[int]*unix.SchedAttr)
	for _, e := range tasks {
		tid, _ := strconv.Atoi(e.Name())
		if found[tid], err = unix.SchedGetAttr(tid, 0); err != nil {
			t.Fatal(err)
		}
	}
	return found
}
