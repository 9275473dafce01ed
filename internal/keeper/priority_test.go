package keeper

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// givingEnv makes the test binary give way, start a keeper in the folder named, and tell how both are scheduled.
const givingEnv = "REPHUB_TEST_GIVING_WAY"

// How an administrator has its threads scheduled before.
const (
	givenNice   = 1
	givenOneEnv = givingEnv + "_ONE" // if set: with one processor
)

// thread is how a thread is scheduled.
type thread struct {
	Processors, Policy, Nice int
	Slice                    uint64 // ns
}

// gaveWay is what a process tells that has given way.
type gaveWay struct {
	First, Second int // what HalveProcessors returned
	Procs         int // of Go's scheduler
	Mine, Keepers []thread
}

func givingMain(dir string) error {
	err := eachThread(func(tid int) error {
		return unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Nice: givenNice}, 0)
	})
	if err == nil && os.Getenv(givenOneEnv) != "" {
		var one unix.CPUSet
		if err = unix.SchedGetaffinity(0, &one); err == nil {
			one = firstOf(one, 1)
			err = eachThread(func(tid int) error { return unix.SchedSetaffinity(tid, &one) })
		}
	}
	if err == nil {
		err = GiveWay()
	}
	var g gaveWay
	if err == nil {
		g.First, err = HalveProcessors()
	}
	if err == nil {
		g.Second, err = HalveProcessors()
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	k, err := Ensure(ctx, configFor(dir))
	if err != nil {
		return err
	}
	defer unix.Kill(k.PID(), unix.SIGKILL)
	g.Procs = runtime.GOMAXPROCS(0)
	if g.Mine, err = threadsOf(os.Getpid()); err != nil {
		return err
	}
	if g.Keepers, err = threadsOf(k.PID()); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(g)
}

func threadsOf(pid int) ([]thread, error) {
	tasks, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "task"))
	if err != nil {
		return nil, err
	}
	var all []thread
	for _, t := range tasks {
		tid, _ := strconv.Atoi(t.Name())
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(tid, &set); err != nil {
			return nil, err
		}
		a, err := unix.SchedGetAttr(tid, 0)
		if err != nil {
			return nil, err
		}
		all = append(all, thread{Processors: set.Count(), Policy: int(a.Policy), Nice: int(a.Nice), Slice: a.Runtime})
	}
	return all, nil
}

// giveWayElsewhere runs givingMain in a process of its own.
func giveWayElsewhere(t *testing.T, env ...string) (g gaveWay) {
	t.Helper()
	cmd := exec.CommandContext(testContext(t), os.Args[0])
	cmd.Env = append(os.Environ(), append(env, givingEnv+"="+shortDir(t))...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	if err := json.Unmarshal(out, &g); err != nil {
		t.Fatal(err)
	}
	if len(g.Mine) == 0 || len(g.Keepers) == 0 {
		t.Fatalf("threads are missing: %+v", g)
	}
	return g
}

// A keeper goes before the process that started it, when that gave way. An administrator's priority for both stays.
func TestKeeperGoesFirst(t *testing.T) {
	g := giveWayElsewhere(t)
	for _, th := range g.Mine {
		if th.Policy != unix.SCHED_BATCH && !th.finished(g) || th.Nice != givenNice {
			t.Errorf("who gave way has a thread %+v", th)
		}
	}
	for _, th := range g.Keepers {
		if th.Policy != unix.SCHED_NORMAL || th.Nice != givenNice || th.Slice >= giveWaySlice {
			t.Errorf("the keeper has a thread %+v", th)
		}
	}
}

// finished tells whether it may be the thread that started the keeper: the first
// one of a process does not end, but never runs again.
func (th thread) finished(g gaveWay) bool {
	n := 0
	for _, other := range g.Mine {
		if other.Policy == unix.SCHED_NORMAL {
			n++
		}
	}
	return n == 1 && th.Policy == unix.SCHED_NORMAL
}

// A process that halves its processors has a half for all its threads, once, and its keeper has all.
func TestHalveProcessors(t *testing.T) {
	all := runtime.NumCPU()
	half, told := max(1, all/2), all/2
	g := giveWayElsewhere(t)
	if g.First != told || g.Second != 0 || g.Procs != half {
		t.Errorf("of %d processors: %+v", all, g)
	}
	for _, th := range g.Mine {
		if th.Processors != half && !th.finished(g) {
			t.Errorf("a thread has %d of %d processors", th.Processors, all)
		}
	}
	for _, th := range g.Keepers {
		if th.Processors != all {
			t.Errorf("a thread of the keeper has %d of %d processors", th.Processors, all)
		}
	}
}

// Processors that somebody has chosen for a process stay as they are, and its keeper's too.
func TestGivenProcessorsStay(t *testing.T) {
	g := giveWayElsewhere(t, givenOneEnv+"=1")
	if g.First != 0 {
		t.Errorf("%d processors", g.First)
	}
	for _, th := range append(g.Mine, g.Keepers...) {
		if th.Processors != 1 {
			t.Errorf("a thread has %d processors", th.Processors)
		}
	}
}

func TestFirstOf(t *testing.T) {
	var set, want unix.CPUSet
	for _, cpu := range []int{3, 4, 70, 500} {
		set.Set(cpu)
	}
	want.Set(3)
	want.Set(4)
	if got := firstOf(set, 2); got != want {
		t.Errorf("%v", got)
	}
}
