package main

import (
	"fmt"
	"github.com/rephub/rephub/demo/boot"
	"os"
	"path/filepath"
	"time"
)

const (
	vmName    = "shop"
	groupName = "shop"
	diskSize  = 256 << 20 // bytes
	back      = 5 * time.Second
	maxLost   = 2 * time.Second
	writeFor  = 10 * time.Second // of protected writing before the disaster
)

// nodes are the QEMU node names of the guest's disks: ext4, and raw.
var nodes = []string{"files", "log"}

// recovered is what came out of one recovery.
type recovered struct {
	at       string
	mount    mount
	running  time.Duration // from asking to a running guest
	mounted  time.Duration // from asking to a checked and mounted file system
	counters [2]uint64
}

// story is the state that the steps hand on to each other.
type story struct {
	dir, accel string
	began      time.Time

	boot      boot.Boot
	hub       *hub
	victim    *vm
	guests    []*vm
	rpo       float64 // seconds, as the hub gave it last before the disaster
	worst     float64 // seconds, the highest seen
	confirmed uint64  // newest stamp that the guest reported before it died
	killed    time.Time
	lost      time.Duration // of writing, between the latest point and the kill
	latest    recovered
	earlier   recovered
}

func newStory(dir, accel string) *story {
	return &story{dir: dir, accel: accel, began: time.Now()}
}

type step struct {
	name string
	do   stepFunc
}

func (s *story) steps() []step {
	return []step{
		{"prepare the guest", s.prepare},
		{"start a hub", s.startHub},
		{"boot a guest that writes to two disks", s.bootVictim},
		{"protect it while it writes", s.protect},
		{"watch it", s.watch},
		{"test a failover while it writes", s.testFailover},
		{"disaster: kill the guest, delete its disks", s.disaster},
		{"recover at the latest point", s.recoverLatest},
		{"recover " + back.String() + " before it", s.recoverEarlier},
		{"compare", s.compare},
		{"clean up", s.cleanUp},
	}
}

func (s *story) disk(node string) string { return filepath.Join(s.dir, node+".raw") }

func (s *story) headline(n int, name string) {
	fmt.Printf("[%5.1f s] %d. %s\n", time.Since(s.began).Seconds(), n, name)
}

// say prints one line below the headline of a step.
func (s *story) say(format string, args ...any) {
	fmt.Printf("           "+format+"\n", args...)
}

func (s *story) summary() {
	s.say("")
	s.say("RPO before the disaster  %.2f s (worst seen %.2f s)", s.rpo, s.worst)
	s.say("lost by the disaster     at most %.1f s of writes", s.lost.Seconds())
	s.say("RTO latest               %.1f s to a running VM, %.1f s to its file system checked and mounted", s.latest.running.Seconds(), s.latest.mounted.Seconds())
	s.say("RTO %s earlier           %.1f s, %.1f s", back, s.earlier.running.Seconds(), s.earlier.mounted.Seconds())
	s.say("counters (disk A, B)     last confirmed %d; latest %d, %d; %s earlier %d, %d", s.confirmed,
		s.latest.counters[0], s.latest.counters[1], back, s.earlier.counters[0], s.earlier.counters[1])
	fmt.Printf("[%5.1f s] done: nothing was lost that was promised, nothing is left running\n", time.Since(s.began).Seconds())
}

// abandon ends everything that still runs, in whatever state the story stopped,
// and returns the processes that had to be killed though the story thought that
// they were gone.
func (s *story) abandon() []string {
	for _, v := range append(s.guests, s.victim) {
		if v != nil {
			_ = v.kill()
		}
	}
	if s.hub != nil {
		if err := s.hub.stop(10 * time.Second); err != nil {
			_ = s.hub.cmd.Process.Kill()
			<-s.hub.exited
			fmt.Fprintf(os.Stderr, "%v\n", err)
		}
	}
	left := waitForNone(5 * time.Second)
	var names []string
	for _, p := range left {
		names = append(names, p.command())
	}
	killAll(left)
	return names
}
