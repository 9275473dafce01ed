// Package failover starts a group's VMs from a point and takes them away again. What it has begun stands in a file before it is begun, so that one that was killed in between is
// undone, and VMs that run are found again.
package failover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/sealed"
	"github.com/rephub/rephub/journal"
)

// Errors callers branch on.
var (
	// ErrNotFound: there is no such test.
	ErrNotFound = errors.New("no such failover test")
	// ErrBusy: it is being started or stopped.
	ErrBusy = errors.New("the failover test is being started or stopped")
	// ErrMemory: the VMs do not fit beside what runs here.
	ErrMemory = errors.New("not enough memory")
)

// Config of a Tests.
type Config struct {
	// Dir holds one folder per test, with the VMs' sockets: its path is short.
	Dir string
	// Unmount ends the mount of a test; one that is gone is no error.
	Unmount func(ctx context.Context, id string) error
	Logger  *slog.Logger // required
}

// Spec of a test.
type Spec struct {
	// ID is that of the mount to be.
	ID    string
	Group string
	Seq   journal.Seq
	Time  time.Time
	// Mount makes the mount and returns the volumes' URIs by their names.
	Mount func(ctx context.Context) (map[string]string, error)
	VMs   []VM
}

// VM is one to start.
type VM struct {
	Name string
	// Order and Delay are the plan's.
	Order int
	Delay time.Duration
	// Memory that it is given, bytes.
	Memory int64
	// Dir is where relative paths of the command line are from, if there is such a folder here.
	Dir string
	// Argv makes the command line, and tells what the VM has not got; runDir is the VM's folder.
	Argv func(runDir string, volumes map[string]string) (argv, notes []string, err error)
}

// Phase is where a test is in its life.
type Phase string

// The phases.
const (
	Starting Phase = "starting"
	Running  Phase = "running"
	Stopping Phase = "stopping"
)

// Record is what is kept of a test.
type Record struct {
	ID      string      `json:"id"`
	Group   string      `json:"group"`
	Seq     journal.Seq `json:"seq"`
	Time    time.Time   `json:"time"` // of the point
	Phase   Phase       `json:"phase"`
	Started time.Time   `json:"started"`
	// RTO is how long it took until all VMs ran.
	RTO time.Duration `json:"rto_ns"`
	VMs []VMRecord    `json:"vms"`
}

// VMRecord is a VM of a test.
type VMRecord struct {
	Name  string   `json:"name"`
	Dir   string   `json:"dir"` // its folder: monitor ("qmp"), what QEMU said ("log")
	Notes []string `json:"notes,omitempty"`
	// Started is how long after the beginning it ran; 0: not yet.
	Started time.Duration `json:"started_ns"`
}

var recordKind = sealed.Kind{Magic: "rephub-failover-test", Version: 1}

// Tests are the failover tests of a hub.
type Tests struct {
	cfg Config

	mu    sync.Mutex
	tests map[string]*test
}

type test struct {
	busy   bool // guarded by Tests.mu, like the record
	record Record
}

// New makes a manager; Restore finds the tests of an earlier run.
func New(cfg Config) *Tests { return &Tests{cfg: cfg, tests: map[string]*test{}} }

func (t *Tests) dir(id string) string { return filepath.Join(t.cfg.Dir, id) }

func (t *Tests) save(r Record) error {
	return recordKind.Write(vfs.OS(), filepath.Join(t.dir(r.ID), "test"), r)
}

// Restore finds what an earlier run has left: tests that run go on, one that was being started or stopped is removed.
func (t *Tests) Restore(ctx context.Context) error {
	names, err := filepath.Glob(filepath.Join(t.cfg.Dir, "*", "test"))
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
			errs = append(errs, fmt.Errorf("failover test: %w", err))
			continue
		}
		t.tests[r.ID] = &test{record: r}
		if r.Phase == Running {
			continue
		}
		t.cfg.Logger.Warn("a failover test was interrupted, it is removed", "test", r.ID, "group", r.Group, "phase", r.Phase)
		if err := t.Stop(ctx, r.ID); err != nil {
			errs = append(errs, fmt.Errorf("remove failover test %s: %w", r.ID, err))
		}
	}
	return errors.Join(errs...)
}

// List are all tests, the oldest first.
func (t *Tests) List() []Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Record
	for _, one := range t.tests {
		all = append(all, one.record)
	}
	slices.SortFunc(all, func(a, b Record) int { return a.Started.Compare(b.Started) })
	return all
}

// Start starts the VMs and returns when all of them run. When that fails, or ctx ends before, nothing is left of the test.
func (t *Tests) Start(ctx context.Context, s Spec, step func(string)) (Record, error) {
	if err := fits(s.VMs); err != nil {
		return Record{}, err
	}
	r := Record{ID: s.ID, Group: s.Group, Seq: s.Seq, Time: s.Time, Phase: Starting, Started: time.Now().UTC()}
	for i, v := range s.VMs {
		r.VMs = append(r.VMs, VMRecord{Name: v.Name, Dir: filepath.Join(t.dir(s.ID), strconv.Itoa(i))})
	}
	if err := os.MkdirAll(t.dir(s.ID), 0o700); err != nil {
		return r, err
	}
	if err := t.save(r); err != nil {
		return r, errors.Join(err, os.RemoveAll(t.dir(s.ID)))
	}
	one := &test{record: r, busy: true}
	t.mu.Lock()
	t.tests[s.ID] = one
	t.mu.Unlock()
	err := t.bringUp(ctx, s, &r, step)
	if err == nil {
		r.Phase, r.RTO = Running, time.Since(r.Started)
		err = t.save(r)
	}
	t.mu.Lock()
	one.busy, one.record = false, r
	t.mu.Unlock()
	if err != nil {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoPatience)
		defer cancel()
		err = errors.Join(err, t.Stop(bounded, s.ID))
	}
	return r, err
}

// undoPatience bounds taking away what was started.
const undoPatience = 30 * time.Second

func (t *Tests) bringUp(ctx context.Context, s Spec, r *Record, step func(string)) error {
	step("mounting")
	volumes, err := s.Mount(ctx)
	if err != nil {
		return err
	}
	argvs := make([][]string, len(s.VMs))
	for i, v := range s.VMs { // before any starts: what cannot be started at all is known now
		if argvs[i], r.VMs[i].Notes, err = v.Argv(r.VMs[i].Dir, volumes); err != nil {
			return fmt.Errorf("VM %s: %w", v.Name, err)
		}
	}
	for _, wave := range waves(s.VMs) {
		step("starting " + wave.names(s.VMs))
		if err := t.startWave(ctx, s, r, argvs, wave); err != nil {
			return err
		}
	}
	return nil
}

// Stop kills the VMs of a test and removes all of it. It may be called again after an error.
func (t *Tests) Stop(ctx context.Context, id string) error {
	t.mu.Lock()
	one, ok := t.tests[id]
	switch {
	case !ok:
		t.mu.Unlock()
		return ErrNotFound
	case one.busy:
		t.mu.Unlock()
		return ErrBusy
	}
	one.busy, one.record.Phase = true, Stopping
	r := one.record
	t.mu.Unlock()
	err := t.remove(ctx, r)
	t.mu.Lock()
	defer t.mu.Unlock()
	one.busy = false
	if err == nil {
		delete(t.tests, id)
	}
	return err
}

func (t *Tests) remove(ctx context.Context, r Record) error {
	if err := t.save(r); err != nil {
		return err
	}
	for _, v := range r.VMs {
		if err := kill(ctx, v.Dir); err != nil {
			return fmt.Errorf("end VM %s: %w", v.Name, err)
		}
	}
	if err := t.cfg.Unmount(ctx, r.ID); err != nil {
		return err
	}
	return os.RemoveAll(t.dir(r.ID))
}
