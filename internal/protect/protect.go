// Package protect is a consistency group's life: it attaches the taps, drains
// them into the journal, fences, syncs, and says honestly how things stand,
// because a point may only be offered when all of that went well.
//
// One goroutine (Run) decides; helpers under it do one thing each and end with
// it. The states it goes through:
//
//	           Run
//	            │
//	  ┌──▶ degraded ──VMs and taps there, new epoch──▶ syncing ──sync done, fenced──▶ protected
//	  │        ▲                                          │                              │
//	  │        └──── void, tap lost, VM gone, disk full ──┴──────────────────────────────┘
//	Resume                                                │
//	  └── paused, stopped ◀── Pause, Stop (void, fence the cut, soft detach) ─┘
package protect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/rephub/rephub/internal/guest"
	"github.com/rephub/rephub/internal/keeper"
	"github.com/rephub/rephub/internal/sync"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/sealed"
	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/journal"
)

// Journal is what a group's life is written into: the replica's own log, or a
// spool on its way there. Then durable is what the replica's side has confirmed;
// the spool's disk counts for nothing. *journal.Log documents the methods.
type Journal interface {
	Append(journal.Batch) error
	AppendControl(journal.Epoch, ...journal.Control) error
	AppendSyncs(journal.Epoch, []journal.SyncWrite) error
	Appended() journal.Seq
	Timeline() journal.Timeline
	Durable() journal.Seq
	DurableTimeline() journal.Timeline
	Sync() (journal.Seq, error)
	Recover() error
	// Settled returns when all that was appended before the call is durable,
	// if a Sync made after it has succeeded.
	Settled(ctx context.Context) error
}

// LocalJournal is a log whose own disk is what counts.
type LocalJournal struct{ *journal.Log }

// Settled implements Journal.
func (LocalJournal) Settled(context.Context) error { return nil }

// Replica is the group's data at the hub, as far as protection needs it.
type Replica interface {
	Journal() Journal
	// Current is the volume as the journal has it now, to compare with. It has at
	// least what was appended before the call. The caller closes it.
	Current(ctx context.Context, volume journal.VolumeID) (sync.Current, error)
	// Base is where the initial sync writes, until the caller closes it or ctx ends.
	Base(ctx context.Context, volume journal.VolumeID) (BaseImage, error)
	// SyncProgress is what SetSyncProgress made durable: all below it is in the base.
	SyncProgress(volume journal.VolumeID) int64
	SetSyncProgress(volume journal.VolumeID, done int64) error
	// ResizeVolume prepares the base for the new size in bytes.
	ResizeVolume(volume journal.VolumeID, size int64) error
	// StatFS is the space on the disk that the journal is on.
	StatFS() (vfs.Space, error)
	// SyncRoom waits until there is room for what a sync copies, so that it takes
	// none from the taps.
	SyncRoom(ctx context.Context) error
	// Dir is the group's folder.
	Dir() string
}

// BaseImage is a base image that is being written.
type BaseImage interface {
	sync.Base
	io.Closer
}

// Deps are the rooms that a group works with.
type Deps struct {
	Replica Replica
	FS      vfs.FS
	// Keeper gives the connection to the tap keeper, waiting for one if need be.
	Keeper func(ctx context.Context) (*keeper.Client, error)
	// OpenVM connects to a VM's monitor.
	OpenVM func(ctx context.Context, ref VMRef) (vm.VM, error)
	// Freezer freezes guests; nil: there is none.
	Freezer *guest.Freezer
	// GrantEpoch returns an epoch never granted for the group before, above after.
	GrantEpoch func(ctx context.Context, group journal.GroupID, after journal.Epoch) (journal.Epoch, error)
	// Changed, unless nil, is called when the group's state has changed. It must not
	// wait for anything.
	Changed func()
	Logger  *slog.Logger
	Now     func() time.Time // wall clock; time.Now
}

// VMRef says where a VM's monitor is.
type VMRef struct {
	Name      string
	QMP       string // unix socket path
	NBDServer string // "unix:PATH" or "HOST:PORT" when somebody else has started QEMU's NBD server; else ""
}

// Volume is a protected volume: its identity, and where it was last found.
type Volume struct {
	ID   journal.VolumeID `json:"id"`
	UUID string           `json:"uuid"`
	VM   string           `json:"vm"`   // VMRef.Name
	Disk string           `json:"disk"` // vm.Volume.Name, by which it is found again
	Node string           `json:"node"` // at the last attach
	Size int64            `json:"size"` // bytes
}

// Name is the volume's name in the group.
func (v *Volume) Name() string { return v.VM + "/" + v.Disk }

// Goal is what a group is meant to do.
type Goal string

// Goals.
const (
	GoalProtect Goal = "protect"
	GoalPause   Goal = "pause"
	GoalStop    Goal = "stop"
)

// Spec says what a group is.
type Spec struct {
	ID      journal.GroupID
	Name    string
	VMs     []VMRef
	Volumes []Volume
	Goal    Goal
}

// Config tunes a group. Zero fields are the defaults named here.
type Config struct {
	// RingSize of the keeper's ring in bytes; 256 MiB, half a second of a busy VM's writes. It takes memory only while the journal's disk lags.
	RingSize int64
	// Gather is how long writes that come one after the other are gathered at most before they are journaled together; 2 ms (see
	// tap.DrainConfig). A write that comes after a pause is not kept waiting.
	Gather time.Duration
	// FenceBusy and FenceIdle are the pauses between fences with and without new writes; 100 ms and 1 s.
	FenceBusy, FenceIdle time.Duration
	// SyncEvery is the most that the journal goes without fdatasync while there is something to sync; 50 ms.
	SyncEvery time.Duration
	// BypassEvery is the least time between two looks at who writes to the volumes; 1 s.
	BypassEvery time.Duration
	// RotateBitmaps is how often dirty bitmaps are begun anew, so that a resync reads little; 60 s.
	RotateBitmaps time.Duration
	// Retry is the pause after a step that did not work; 1 s.
	Retry time.Duration
	// MonitorTimeout bounds a question to a VM's monitor; 5 s. Attaching and detaching get six times that.
	MonitorTimeout time.Duration
	// DiskTimeout is how long pausing and stopping wait for the journal's disk before they go on without it; 30 s.
	DiskTimeout time.Duration
	// Reserve is the free space in bytes below which journalling stops; 1 GiB, or a twentieth of the disk if that is less.
	Reserve int64
	// TapTCP: VMs reach their taps over loopback TCP, as some confinement keeps them from the keeper's unix socket.
	TapTCP bool
	// ReaderDir is where a VM's NBD server makes its socket; the VM must be able to write there.
	ReaderDir string
}

// EnsureDefaults fills zero fields.
func (c *Config) EnsureDefaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if c.RingSize == 0 {
		c.RingSize = 256 << 20
	}
	set(&c.Gather, 2*time.Millisecond)
	set(&c.FenceBusy, 100*time.Millisecond)
	set(&c.FenceIdle, time.Second)
	set(&c.SyncEvery, 50*time.Millisecond)
	set(&c.BypassEvery, time.Second)
	set(&c.RotateBitmaps, time.Minute)
	set(&c.Retry, time.Second)
	set(&c.MonitorTimeout, 5*time.Second)
	set(&c.DiskTimeout, 30*time.Second)
}

// Validate tells what cannot work.
func (c *Config) Validate() error {
	if c.RingSize < 1<<20 {
		return fmt.Errorf("ring of %d bytes: at least 1 MiB", c.RingSize)
	}
	if c.ReaderDir == "" {
		return errors.New("no directory for the VMs' NBD sockets")
	}
	return nil
}

// Group is one consistency group under protection.
type Group struct {
	deps   Deps
	cfg    Config
	spec   Spec
	tag    vm.GroupTag
	log    Journal
	logger *slog.Logger

	memo   *memo
	stream *stream
	goals  *goals
	status status
	fences fences
	space  *SpaceGuard
	names  *Names
}

// New makes a group from its spec; Run brings it to life.
func New(deps Deps, spec Spec, cfg Config) (*Group, error) {
	cfg.EnsureDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if len(spec.Volumes) == 0 {
		return nil, fmt.Errorf("group %s has no volumes", spec.Name)
	}
	for _, v := range spec.Volumes {
		if !slices.ContainsFunc(spec.VMs, func(r VMRef) bool { return r.Name == v.VM }) {
			return nil, fmt.Errorf("group %s: nobody could vouch for volume %s: VM %s is not known", spec.Name, v.Name(), v.VM)
		}
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	if spec.Goal == "" {
		spec.Goal = GoalProtect
	}
	g := &Group{
		deps: deps, cfg: cfg, spec: spec, log: deps.Replica.Journal(), tag: Tag(spec.ID),
		logger: deps.Logger.With("group", spec.Name), goals: newGoals(spec.Goal),
	}
	g.status.told = deps.Changed
	g.stream = newStream(g.log)
	g.names = NewNames(g.log)
	g.space = &SpaceGuard{Dir: deps.Replica.Dir(), StatFS: deps.Replica.StatFS, Reserve: cfg.Reserve}
	var err error
	g.memo, err = loadMemo(deps.FS, deps.Replica.Dir(), spec.Volumes)
	if errors.Is(err, sealed.ErrCorrupt) {
		g.logger.Error("what was noted of the volumes is lost, they are compared anew", "err", err)
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("group %s: %w", spec.Name, err)
	}
	g.status.set(StateDegraded, starting, "")
	return g, nil
}

const starting = "protection has just begun to run"

// Tag is the mark of a group in the names that it gives inside a VM.
func Tag(id journal.GroupID) vm.GroupTag { return vm.GroupTag(id.String()[:8]) }

// Spec is what the group was made from.
func (g *Group) Spec() Spec { return g.spec }
