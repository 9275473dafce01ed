package giveway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What the test binary is to do instead of testing.
const (
	givingEnv = "REPHUB_TEST_GIVING_WAY" // give way, start another with tellEnv, and tell how both are scheduled
	tellEnv   = "REPHUB_TEST_TELL"       // tell how its threads are scheduled
)

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
	Yields        bool
	Mine, Firsts  []thread
}

func TestMain(m *testing.M) {
	var err error
	switch {
	case os.Getenv(tellEnv) != "":
		err = tellMain()
	case os.Getenv(givingEnv) != "":
		err = givingMain()
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func tellMain() error {
	all, err := threadsOf(os.Getpid())
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

func givingMain() error {
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
		err = Begin()
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
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), tellEnv+"=1")
	var said []byte
	First(func(denied error) {
		said, err = cmd.Output()
		err = errors.Join(denied, err)
	})
	if err == nil {
		err = json.Unmarshal(said, &g.Firsts)
	}
	if err != nil {
		return err
	}
	g.Procs, g.Yields = runtime.GOMAXPROCS(0), yields.Load()
	if g.Mine, err = threadsOf(os.Getpid()); err != nil {
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
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), append(env, givingEnv+"=1")...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	if err := json.Unmarshal(out, &g); err != nil {
		t.Fatal(err)
	}
	if len(g.Mine) == 0 || len(g.Firsts) == 0 {
		t.Fatalf("threads are missing: %+v", g)
	}
	return g
}

// What First starts goes before the process, which gave way. An administrator's priority for both stays.
func TestFirst(t *testing.T) {
	g := giveWayElsewhere(t)
	for _, th := range g.Mine {
		if th.Policy != unix.SCHED_BATCH && !th.finished(g) || th.Nice != givenNice {
			t.Errorf("who gave way has a thread %+v", th)
		}
	}
	for _, th := range g.Firsts {
		if th.Policy != unix.SCHED_NORMAL || th.Nice != givenNice || th.Slice >= longSlice {
			t.Errorf("what goes first has a thread %+v", th)
		}
	}
}

// finished tells whether it may be the thread that was in First: the first
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

// A process that halves its processors has a half for all its threads, once, and what First starts has all.
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
	for _, th := range g.Firsts {
		if th.Processors != all {
			t.Errorf("a thread of what goes first has %d of %d processors", th.Processors, all)
		}
	}
}

// Processors that somebody has chosen for a process stay as they are, also for what First starts.
func TestGivenProcessorsStay(t *testing.T) {
	g := giveWayElsewhere(t, givenOneEnv+"=1")
	if g.First != 0 {
		t.Errorf("%d processors", g.First)
	}
	for _, th := range append(g.Mine, g.Firsts...) {
		if th.Processors != 1 {
			t.Errorf("a thread has %d processors", th.Processors)
		}
	}
}

// Who waits is let through again and again, until that takes long; then not for a while.
func TestYield(t *testing.T) {
	var g gate
	var now, takes time.Duration
	let := 0
	yield := func() int {
		g.yield(func() time.Duration { return now }, func() { let++; now += takes })
		return let
	}
	takes = tooLong
	if yield(); yield() != 2 {
		t.Errorf("let through %d times, not twice", let)
	}
	takes++
	for want := 3; want < 20; want++ { // each time it is tried again, somebody still computes
		closed := min(insist<<(want-3), insistMost)
		if yield() != want {
			t.Fatalf("let through %d times, not %d", let, want)
		}
		if now += closed - 1; yield() != want {
			t.Fatalf("let through again before %s", closed)
		}
		now++
	}
	takes = 0
	for range 30 {
		yield()
		now += time.Minute
	}
	takes, let = 2*tooLong, 0
	if yield(); let != 1 {
		t.Error("nobody is let through, though it was short for long")
	}
	if now += insist; yield() != 2 {
		t.Error("what happened long ago counts")
	}
}

// Only a process that gives way yields.
func TestYieldsOnceBegun(t *testing.T) {
	if Yield(); yields.Load() {
		t.Error("a process yields that did not begin to give way")
	}
	if g := giveWayElsewhere(t); !g.Yields {
		t.Error("a process that gives way does not yield")
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
