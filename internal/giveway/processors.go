package giveway

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// given are the processors that this process had before HalveProcessors; empty as long as it has kept them.
var given struct {
	sync.Mutex
	set unix.CPUSet
}

// HalveProcessors keeps this process to the first half of its processors, and returns how many those are, so that the VMs of its host always have
// some on which it never runs. What it starts inherits that, but for what First starts. A process that was given its processors by somebody keeps them, and so
// does one that has a single one: then 0 is returned, as for a second call.
//
// The first half, because hosts that pin VMs leave the first processors to everything else.
func HalveProcessors() (int, error) {
	given.Lock()
	defer given.Unlock()
	mine, possible, err := processors()
	if err != nil {
		return 0, fmt.Errorf("find the processors of this process: %w", err)
	}
	if mine != possible || mine.Count() < 2 {
		return 0, nil
	}
	half := firstOf(mine, mine.Count()/2)
	given.set = mine
	if err := eachThread(func(tid int) error { return unix.SchedSetaffinity(tid, &half) }); err != nil {
		return 0, err
	}
	runtime.SetDefaultGOMAXPROCS() // the runtime would find out by itself, but later
	return half.Count(), nil
}

// processors are those of this process, and those that the kernel lets it use, whatever somebody has chosen of them.
func processors() (mine, possible unix.CPUSet, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.SchedGetaffinity(0, &mine); err != nil {
		return mine, possible, err
	}
	var all unix.CPUSet
	all.Fill()
	if err := unix.SchedSetaffinity(0, &all); err != nil {
		return mine, possible, err
	}
	err = unix.SchedGetaffinity(0, &possible)
	return mine, possible, errors.Join(err, unix.SchedSetaffinity(0, &mine))
}

// firstOf are the first n processors of a set.
func firstOf(set unix.CPUSet, n int) unix.CPUSet {
	var first unix.CPUSet
	for cpu := 0; n > 0; cpu++ {
		if set.IsSet(cpu) {
			first.Set(cpu)
			n--
		}
	}
	return first
}
