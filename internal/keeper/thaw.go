package keeper

import (
	"fmt"
	"os"
	"os/signal"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sigevent is the kernel's struct sigevent, as far as timer_create reads it for a signal to the process.
type sigevent struct {
	value  uintptr
	signo  int32
	notify int32 // 0: SIGEV_SIGNAL
	_      [64 - 8 - unsafe.Sizeof(uintptr(0))]byte
}

// itimerspec is the kernel's struct of that name.
type itimerspec struct{ interval, value unix.Timespec }

// thawEvery has the kernel send this process a SIGCONT again and again, so that a SIGSTOP lasts no longer than every: timers run on while a
// process is stopped, and a stopped keeper hangs its VMs, for ever if nobody is left to watch it. The signal has to be caught: a
// newer kernel gives up a timer whose signal is ignored. It helps against neither a debugger nor a cgroup's freezer.
func thawEvery(every time.Duration) error {
	signal.Notify(make(chan os.Signal, 1), unix.SIGCONT) // nobody cares
	event := sigevent{signo: int32(unix.SIGCONT)}
	var id int32
	if _, _, e := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&id))); e != 0 {
		return fmt.Errorf("make a timer: %w", e)
	}
	t := unix.NsecToTimespec(every.Nanoseconds())
	spec := itimerspec{t, t}
	if _, _, e := unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(id), 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0); e != 0 {
		return fmt.Errorf("start a timer: %w", e)
	}
	return nil
}
