// Package failover starts a group's VMs from a point: for a test, and then takes them away again; or in earnest, until somebody takes that back or keeps it. What it has begun stands
// in a file before it is begun, so that one that was killed in between is undone or finished, and VMs that run are found again.
//
//	                    Stop ┌────────── stopping ──▶ nothing
//	                         │              ▲ Stop (rollback)
//	Start ──▶ starting ──▶ running ─────────┤
//	                                        ▼ Commit, or its timer
//	                                    committing ──▶ committed
package failover

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/sealed"
	"github.com/rephub/rephub/journal"
)

// Errors callers branch on.
var (
	// ErrNotFound: there is no such test or failover.
	ErrNotFound = errors.New("no such failover")
	// ErrBusy: it is being started or stopped.
	ErrBusy = errors.New("the failover is being started or stopped")
	// ErrExists: the group has failed over already.
	ErrExists = errors.New("the group has failed over already")
	// ErrMemory: the VMs do not fit beside what runs here.
	ErrMemory = errors.New("not enough memory")
	// ErrCommitted: it cannot be taken back any more.
	ErrCommitted = errors.New("the failover has been committed")
	// ErrEnded: a VM does not run, so that its volumes cannot be moved under it.
	ErrEnded = errors.New("the VM does not run")
)

// Config of a Failovers.
type Config struct {
	// Dir holds one folder per failover, with the VMs' sockets: its path is short.
	Dir string
	// Actions are what is done outside of this room.
	Actions
	Logger *slog.Logger // required
}

// Actions are done to the group around its VMs. Each is called again after a kill, and does then what is left to do.
type Actions interface {
	// Unmount ends the mount of a failover; one that is gone is no error.
	Unmount(ctx context.Context, id string) error
	// Fence has the group take nothing from where its VMs were, and chooses the point. What it notes in the record is durable when save returns.
	Fence(ctx context.Context, r *Record, save func() error, step func(string)) error
	// Release takes Fence back.
	Release(ctx context.Context, r *Record) error
	// Adopt makes the VMs, whose volumes are here now, those of the group.
	Adopt(ctx context.Context, r *Record) error
}

// Spec of a failover.
type Spec struct {
	Kind Kind
	// ID is that of the mount to be.
	ID    string
	Group string
	// Seq and Time are the point's; Fence may choose another one.
	Seq  journal.Seq
	Time time.Time
	// At is what was asked for.
	At string
	// Planned: the VMs are shut down first where they run, for at most Patience.
	Planned  bool
	Patience time.Duration
	// CommitAfter is when a failover that runs is committed by itself; 0: never.
	CommitAfter time.Duration
	// Storage is the folder that the volumes move to with the commit.
	Storage string
	// Mount makes the mount of the record's point and returns the volumes' URIs by their names.
	Mount func(ctx context.Context, r *Record) (map[string]string, error)
	VMs   []VM
	// Before and After are commands for this host, around the start of all VMs.
	Before, After []string
}

// Kind is what it is for.
type Kind string

// The kinds.
const (
	Test     Kind = "test"
	Failover Kind = "failover"
)

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
	// Volumes are those that it has of the group's.
	Volumes []Volume
	// Before and After are commands for this host, around its start.
	Before, After []string
	// Argv makes the command line, and tells what the VM has not got.
	Argv func(Place) (argv, notes []string, err error)
}

// Place is where a VM finds things.
type Place struct {
	Dir   string // the VM's folder: its QMP socket is "qmp" in it
	Named string // path of a second QMP socket, for others; "": none
	// Volumes are where those of the group are, by their names: NBD URIs, or Local, the paths of raw images here.
	Volumes map[string]string
	Local   bool
}

// Volume of a VM.
type Volume struct {
	Name string `json:"name"` // in the group
	At   string `json:"at"`   // its node while it is served over NBD
	On   string `json:"on"`   // its node when it has moved
	Size int64  `json:"size"` // bytes
	// File is what it moves to, Local whether it has.
	File  string `json:"file,omitempty"`
	Local bool   `json:"local,omitempty"`
}

// Phase is where a failover is in its life.
type Phase string

// The phases. A test is never committed.
const (
	Starting   Phase = "starting"
	Running    Phase = "running"
	Stopping   Phase = "stopping"
	Committing Phase = "committing"
	Committed  Phase = "committed"
)

// Record is what is kept of a failover.
type Record struct {
	Kind    Kind          `json:"kind,omitempty"` // "": Test
	ID      string        `json:"id"`
	Group   string        `json:"group"`
	At      string        `json:"at,omitempty"`
	Seq     journal.Seq   `json:"seq"`
	Time    time.Time     `json:"time"` // of the point
	Planned bool          `json:"planned,omitempty"`
	Wait    time.Duration `json:"wait_ns,omitempty"` // for guests that shut down
	Phase   Phase         `json:"phase"`
	Started time.Time     `json:"started"`
	// RTO is how long it took until all VMs ran.
	RTO time.Duration `json:"rto_ns"`
	// CommitAt is when it is committed by itself; zero: never.
	CommitAt time.Time  `json:"commit_at,omitzero"`
	VMs      []VMRecord `json:"vms"`
	// Held are VMs that Fence has held or shut down where they run, Fenced whether it got as far as the group.
	Held   []string `json:"held,omitempty"`
	Fenced bool     `json:"fenced,omitempty"`
	// Notes are for people.
	Notes []string `json:"notes,omitempty"`

	// Progress of the commit and what holds it up are not kept.
	Done, Total int64  `json:"-"` // bytes
	Problem     string `json:"-"`
}

// VMRecord is a VM of a failover.
type VMRecord struct {
	Name  string   `json:"name"`
	Dir   string   `json:"dir"`             // its folder: monitor ("qmp"), what QEMU said ("log"), how it is started again ("start")
	Named string   `json:"named,omitempty"` // a second monitor, for whoever protects it from now on
	Notes []string `json:"notes,omitempty"`
	// Started is how long after the beginning it ran; 0: not yet.
	Started time.Duration `json:"started_ns"`
	Volumes []Volume      `json:"volumes,omitempty"`
}

// QMP is the path of its monitor.
func (v *VMRecord) QMP() string { return filepath.Join(v.Dir, "qmp") }

// Alive tells whether it has a process.
func (v *VMRecord) Alive() (bool, error) {
	pids, err := processes(v.QMP())
	return len(pids) > 0, err
}

var recordKind = sealed.Kind{Magic: "rephub-failover-test", Version: 1}

// recordFile is where it is kept in the folder of a failover.
const recordFile = "test"

// Failovers are those of a hub.
type Failovers struct {
	cfg  Config
	wake chan struct{} // there is something to commit

	mu  sync.Mutex
	all map[string]*one
}

// one failover.
type one struct {
	busy   bool // guarded by Failovers.mu, like the record
	record Record
}

// New makes a manager; Restore finds what an earlier run has left, Run commits.
func New(cfg Config) *Failovers {
	return &Failovers{cfg: cfg, wake: make(chan struct{}, 1), all: map[string]*one{}}
}

// Dir is the folder of a failover.
func (f *Failovers) Dir(id string) string { return filepath.Join(f.cfg.Dir, id) }

func (f *Failovers) save(r Record) error {
	return recordKind.Write(vfs.OS(), filepath.Join(f.Dir(r.ID), recordFile), r)
}

// List are all, the oldest first.
func (f *Failovers) List() []Record {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []Record
	for _, o := range f.all {
		all = append(all, o.get())
	}
	slices.SortFunc(all, func(a, b Record) int { return a.Started.Compare(b.Started) })
	return all
}

// Get is one of them.
func (f *Failovers) Get(id string) (Record, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o, ok := f.all[id]
	if !ok {
		return Record{}, ErrNotFound
	}
	return o.get(), nil
}

// get is a copy that nobody changes.
func (o *one) get() Record {
	r := o.record
	r.VMs = slices.Clone(r.VMs)
	for i := range r.VMs {
		r.VMs[i].Volumes = slices.Clone(r.VMs[i].Volumes)
	}
	return r
}

// put shows a record to others.
func (f *Failovers) put(o *one, r Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o.record = r
	o.record = o.get()
}

// take keeps others from a failover until release, if allowed agrees.
func (f *Failovers) take(id string, allowed func(*Record) error) (o *one, r Record, release func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o, ok := f.all[id]
	switch {
	case !ok:
		return nil, r, nil, ErrNotFound
	case o.busy:
		return nil, r, nil, ErrBusy
	}
	if err := allowed(&o.record); err != nil {
		return nil, r, nil, err
	}
	o.busy = true
	return o, o.get(), func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		o.busy = false
	}, nil
}
