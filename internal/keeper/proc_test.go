package keeper

import (
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// spawn starts a process of one thread until the test's end.
func spawn(t *testing.T, name string, args ...string) int {
	t.Helper()
	cmd := exec.Command(name, args...)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd.Process.Pid
}

// looks tells how many of some looks at a process find that it waits for a processor.
func looks(pid, n int) (waiting int) {
	const pace = 25 * time.Millisecond
	tick := time.NewTicker(pace)
	defer tick.Stop()
	q := runQueue{pid: pid}
	q.waits(pace)
	for range n {
		<-tick.C
		if q.waits(pace) {
			waiting++
		}
	}
	return waiting
}

// A process that wants a processor and gets none is told from one that wants none.
func TestRunQueue(t *testing.T) {
	idle, hungry := spawn(t, "cat"), spawn(t, "yes")
	if err := unix.Setpriority(unix.PRIO_PROCESS, hungry, 19); err != nil {
		t.Fatal(err)
	}
	for range 4 * runtime.NumCPU() {
		spawn(t, "yes")
	}
	if n := looks(hungry, 40); n < 20 {
		t.Errorf("a process that gets hardly any of the processors waits in %d of 40 looks", n)
	}
	if n := looks(idle, 40); n > 5 {
		t.Errorf("a process that sleeps waits for a processor in %d of 40 looks", n)
	}
}
