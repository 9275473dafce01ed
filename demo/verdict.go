package main

import (
	"context"
	"fmt"
	"time"
)

// compare judges what the two recoveries found.
func (s *story) compare(context.Context) error {
	for _, r := range []recovered{s.latest, s.earlier} {
		if err := wholeCut(r.counters); err != nil {
			return fmt.Errorf("at %s: %w", r.at, err)
		}
	}
	if s.earlier.counters[0] >= s.latest.counters[0] {
		return fmt.Errorf("the earlier point has counter %d, the latest %d: it must be lower",
			s.earlier.counters[0], s.latest.counters[0])
	}
	if s.latest.counters[1] == 0 || s.earlier.counters[1] == 0 {
		return fmt.Errorf("a disk came back empty: %v, %v", s.latest.counters, s.earlier.counters)
	}
	if s.lost = s.victim.since(s.killed, s.latest.counters[1]); s.lost > maxLost {
		return fmt.Errorf("the latest point is %.1f s older than the disaster", s.lost.Seconds())
	}
	s.say("on both points the two disks are of one moment")
	return nil
}

// wholeCut says whether the two disks are of one moment: the guest writes n to
// disk A, waits until it is durable, and only then writes n to disk B.
func wholeCut(c [2]uint64) error {
	if c[0] == c[1] || c[0] == c[1]+1 {
		return nil
	}
	return fmt.Errorf("disk A has write %d and disk B write %d: the VM never was in that state", c[0], c[1])
}

// cleanUp takes everything down in the orderly way and makes sure that nothing
// is left, the detached keeper included.
func (s *story) cleanUp(ctx context.Context) error {
	for _, r := range []recovered{s.latest, s.earlier} {
		if err := s.hub.run(ctx, "unmount", r.mount.ID); err != nil {
			return err
		}
	}
	if err := s.hub.run(ctx, "unprotect", groupName); err != nil {
		return err
	}
	if err := s.hub.stop(20 * time.Second); err != nil {
		return err
	}
	if left := waitForNone(20 * time.Second); len(left) > 0 {
		return fmt.Errorf("still running after the hub ended: %s", left[0].command())
	}
	return nil
}
