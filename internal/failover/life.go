package failover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rephub/rephub/internal/vfs"
)

// Restore finds what an earlier run has left: VMs that run go on, what was being started or stopped is undone. What was being committed is finished by Run.
func (f *Failovers) Restore(ctx context.Context) error {
	names, err := filepath.Glob(filepath.Join(f.cfg.Dir, "*", recordFile))
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		var r Record
		err := recordKind.Read(vfs.OS(), name, &r)
		if err == nil && r.ID != filepath.Base(filepath.Dir(name)) {
			err = fmt.Errorf("read %s: it is of %s", name, r.ID)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("failover: %w", err))
			continue
		}
		if r.Kind == "" {
			r.Kind = Test
		}
		f.mu.Lock()
		f.all[r.ID] = &one{record: r}
		f.mu.Unlock()
		if r.Phase != Starting && r.Phase != Stopping {
			continue
		}
		f.cfg.Logger.Warn("a failover was interrupted, it is undone", "failover", r.ID, "kind", r.Kind, "group", r.Group, "phase", r.Phase)
		if err := f.Stop(ctx, r.ID); err != nil {
			errs = append(errs, fmt.Errorf("undo failover %s: %w", r.ID, err))
		}
	}
	return errors.Join(errs...)
}

// Start starts the VMs and returns when all of them run. When that fails, or ctx ends before, nothing is left of it.
func (f *Failovers) Start(ctx context.Context, s Spec, step func(string)) (Record, error) {
	if err := fits(s.VMs); err != nil {
		return Record{}, err
	}
	r := f.record(s)
	o, err := f.begin(r)
	if err != nil {
		return r, err
	}
	err = f.bringUp(ctx, s, &r, step)
	if err == nil {
		r.Phase, r.RTO = Running, time.Since(r.Started)
		if s.CommitAfter > 0 {
			r.CommitAt = time.Now().UTC().Add(s.CommitAfter)
		}
		err = f.save(r)
	}
	f.put(o, r)
	f.mu.Lock()
	o.busy = false
	f.mu.Unlock()
	if err != nil {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoPatience)
		defer cancel()
		err = errors.Join(err, f.Stop(bounded, s.ID))
	}
	return r, err
}

// undoPatience bounds taking away what was started.
const undoPatience = 30 * time.Second

// maxSocket is how long the path of a unix socket can be.
const maxSocket = 107

// record is that of a failover to be.
func (f *Failovers) record(s Spec) Record {
	r := Record{
		Kind: s.Kind, ID: s.ID, Group: s.Group, At: s.At, Seq: s.Seq, Time: s.Time, Planned: s.Planned, Wait: s.Patience,
		Phase: Starting, Started: time.Now().UTC(),
	}
	for i, v := range s.VMs {
		one := VMRecord{Name: v.Name, Dir: filepath.Join(f.Dir(s.ID), strconv.Itoa(i))}
		if s.Kind == Failover {
			// Agents name VMs after their sockets: so it has its name again wherever it is protected from now on.
			if named := filepath.Join(one.Dir, v.Name+".qmp"); len(named) <= maxSocket {
				one.Named = named
			}
			for _, vol := range v.Volumes {
				vol.File = filepath.Join(s.Storage, s.ID, strings.ReplaceAll(vol.Name, "/", "-")+".raw")
				one.Volumes = append(one.Volumes, vol)
			}
		}
		r.VMs = append(r.VMs, one)
	}
	return r
}

// begin lists and writes down a failover, unless the group has one that was not taken back.
func (f *Failovers) begin(r Record) (*one, error) {
	f.mu.Lock()
	for _, o := range f.all {
		if r.Kind == Failover && o.record.Kind == Failover && o.record.Group == r.Group && o.record.Phase != Committed {
			f.mu.Unlock()
			return nil, ErrExists
		}
	}
	o := &one{record: r, busy: true}
	f.all[r.ID] = o
	f.mu.Unlock()
	err := os.MkdirAll(f.Dir(r.ID), 0o700)
	if err == nil {
		err = f.save(r)
	}
	if err == nil {
		return o, nil
	}
	f.drop(r.ID)
	return nil, errors.Join(err, os.RemoveAll(f.Dir(r.ID)))
}

func (f *Failovers) drop(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.all, id)
}

func (f *Failovers) bringUp(ctx context.Context, s Spec, r *Record, step func(string)) error {
	if s.Kind == Failover {
		if err := f.cfg.Fence(ctx, r, func() error { return f.save(*r) }, step); err != nil {
			return err
		}
		if err := f.save(*r); err != nil {
			return err
		}
	}
	step("mounting")
	volumes, err := s.Mount(ctx, r)
	if err != nil {
		return err
	}
	argvs := make([][]string, len(s.VMs))
	for i, v := range s.VMs { // before any starts: what cannot be started at all is known now
		if argvs[i], err = commandLine(s.Kind, v, &r.VMs[i], volumes); err != nil {
			return fmt.Errorf("VM %s: %w", v.Name, err)
		}
	}
	if err := runAll(ctx, s, "", s.Before, step); err != nil {
		return err
	}
	for _, wave := range waves(s.VMs) {
		step("starting " + wave.names(s.VMs))
		if err := startWave(ctx, s, r, argvs, wave, step); err != nil {
			return err
		}
	}
	return runAll(ctx, s, "", s.After, step)
}

// commandLine makes that of a VM, and for a failover the scripts that start it again.
func commandLine(kind Kind, v VM, r *VMRecord, volumes map[string]string) (argv []string, err error) {
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return nil, err
	}
	if argv, r.Notes, err = v.Argv(Place{Dir: r.Dir, Named: r.Named, Volumes: volumes}); err != nil || kind == Test {
		return argv, err
	}
	files := map[string]string{}
	for _, vol := range r.Volumes {
		files[vol.Name] = vol.File
	}
	later, _, err := v.Argv(Place{Dir: r.Dir, Named: r.Named, Volumes: files, Local: true})
	if err != nil {
		return nil, err
	}
	if err := writeScript(filepath.Join(r.Dir, startScript), argv); err != nil {
		return nil, err
	}
	return argv, writeScript(filepath.Join(r.Dir, startScript+laterSuffix), later)
}

// Stop ends the VMs of a failover, discards what they have written and takes back what Fence has done; nothing is left then. It may be called again after an error.
func (f *Failovers) Stop(ctx context.Context, id string) error {
	o, r, release, err := f.take(id, func(r *Record) error {
		if r.Phase == Committing || r.Phase == Committed {
			return ErrCommitted
		}
		r.Phase = Stopping
		return nil
	})
	if err != nil {
		return err
	}
	defer release()
	if err := f.remove(ctx, &r); err != nil {
		f.put(o, r)
		return err
	}
	f.drop(id)
	return nil
}

func (f *Failovers) remove(ctx context.Context, r *Record) error {
	if err := f.save(*r); err != nil {
		return err
	}
	for _, v := range r.VMs {
		if err := kill(ctx, v.QMP()); err != nil {
			return fmt.Errorf("end VM %s: %w", v.Name, err)
		}
	}
	if err := f.cfg.Unmount(ctx, r.ID); err != nil {
		return err
	}
	if r.Kind == Failover {
		if err := f.cfg.Release(ctx, r); err != nil {
			return err
		}
	}
	return os.RemoveAll(f.Dir(r.ID))
}
