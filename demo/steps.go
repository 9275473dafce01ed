package main

import (
	"context"
	"errors"
	"fmt"
	"github.com/rephub/rephub/demo/boot"
	"os"
	"path/filepath"
	"time"
)

type stepFunc = func(context.Context) error

func (s *story) prepare(ctx context.Context) error {
	var err error
	if s.boot, err = boot.Make(ctx, ".", s.dir); err != nil {
		return err
	}
	if s.accel == "" {
		s.accel = chooseAccel(ctx, s.dir, s.boot)
	}
	s.say("accelerator: %s", s.accel)
	for _, node := range nodes {
		if err := makeDisk(s.disk(node)); err != nil {
			return err
		}
	}
	return nil
}

func makeDisk(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(diskSize), f.Close())
}

func (s *story) startHub(ctx context.Context) error {
	var err error
	s.hub, err = startHub(ctx, s.dir, s.say)
	return err
}

func (s *story) bootVictim(ctx context.Context) error {
	var drives []drive
	for _, node := range nodes {
		drives = append(drives, drive{node, "driver=raw,node-name=" + node + ",file.driver=file,file.filename=" + s.disk(node)})
	}
	var err error
	s.victim, err = startVM(s.dir, vmName, s.accel, "write", s.boot, s.qmp(), drives)
	if err != nil {
		return err
	}
	if _, err := s.victim.wait(ctx, "wrote", time.Minute); err != nil {
		return err
	}
	s.say("it runs, and is writing")
	return nil
}

func (s *story) qmp() string { return filepath.Join(s.dir, vmName+".qmp") }

func (s *story) protect(ctx context.Context) error {
	if err := s.hub.run(ctx, "vm", "add", vmName, "--qmp", s.qmp()); err != nil {
		return err
	}
	if err := s.hub.run(ctx, "protect", vmName, "--group", groupName, "--wait"); err != nil {
		return err
	}
	g, err := s.hub.group(ctx, groupName)
	if err != nil {
		return err
	}
	if g.State != "protected" {
		return fmt.Errorf("protect --wait returned, and the group is %s: %s", g.State, g.Reason)
	}
	return nil
}

// watch lets the guest write and shows how far the hub is behind it.
func (s *story) watch(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < writeFor; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.victim.exited:
			return fmt.Errorf("the guest ended: %s", s.victim.tail())
		case <-tick.C:
		}
		g, err := s.hub.group(ctx, groupName)
		if err != nil {
			return err
		}
		if g.State != "protected" {
			return fmt.Errorf("the group is %s: %s", g.State, g.Reason)
		}
		s.rpo, s.worst = g.RPO, max(s.worst, g.RPO)
		s.say("%s  RPO %.2f s  seq %d, durable %d  guest: %s", g.State, g.RPO, g.LastSeq, g.DurableSeq, s.victim.last("wrote"))
	}
	return nil
}

func (s *story) disaster(context.Context) error {
	if err := s.victim.kill(); err != nil {
		return err
	}
	s.killed = time.Now()
	for _, node := range nodes {
		if err := os.Remove(s.disk(node)); err != nil {
			return err
		}
	}
	if _, err := fmt.Sscanf(s.victim.last("wrote"), "wrote %d", &s.confirmed); err != nil {
		return fmt.Errorf("the guest's last report: %w", err)
	}
	s.say("the guest is gone, and so are its disks; it had reported %d writes on each", s.confirmed)
	return nil
}

func (s *story) recoverLatest(ctx context.Context) error {
	var err error
	s.latest, err = s.recover(ctx, "latest", "recovered")
	return err
}

func (s *story) recoverEarlier(ctx context.Context) error {
	at := s.latest.mount.Time.Add(-back).Format(time.RFC3339Nano)
	var err error
	s.earlier, err = s.recover(ctx, at, "rewound")
	return err
}

// recover mounts a point and boots a guest from it that checks what it finds.
func (s *story) recover(ctx context.Context, at, name string) (recovered, error) {
	r := recovered{at: at}
	asked := time.Now()
	if err := s.hub.query(ctx, &r.mount, "mount", groupName, "--at", at, "--writable"); err != nil {
		return r, err
	}
	drives, err := r.mount.drives(vmName, nodes)
	if err != nil {
		return r, err
	}
	v, err := startVM(s.dir, name, s.accel, "check", s.boot, "", drives)
	if err != nil {
		return r, err
	}
	s.guests = append(s.guests, v)
	for _, stage := range []struct {
		line string
		took *time.Duration
	}{{"booted", &r.running}, {"fsck clean", nil}, {"mounted", &r.mounted}} {
		if _, err := v.wait(ctx, stage.line, time.Minute); err != nil {
			return r, err
		}
		if stage.took != nil {
			*stage.took = time.Since(asked)
		}
	}
	line, err := v.wait(ctx, "counters", time.Minute)
	if err != nil {
		return r, err
	}
	if _, err := fmt.Sscanf(line, "counters %d %d", &r.counters[0], &r.counters[1]); err != nil {
		return r, fmt.Errorf("guest said %q: %w", line, err)
	}
	s.say("a guest runs from seq %d (%s): fsck clean, mounted, counters %d and %d", r.mount.Seq,
		r.mount.Time.Local().Format("15:04:05.000"), r.counters[0], r.counters[1])
	return r, v.ended(ctx, time.Minute)
}
