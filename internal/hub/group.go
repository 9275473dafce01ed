package hub

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/guest"
	"github.com/rephub/rephub/internal/keeper"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/recovery"
	"github.com/rephub/rephub/internal/replica"
	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/journal"
)

// Group is a group as the hub sees it: its life, its points, and what recovery
// needs of it. Methods may be called concurrently.
type Group interface {
	recovery.Group
	Life
	Points
	// Status asks no VM and does not wait for a slow disk. The hub fills in Name
	// and ID.
	Status() api.GroupStatus
	// Retain cuts the history to its promised length; held is the point that
	// forbids to cut it so far, 0 without one.
	Retain(ctx context.Context, now time.Time, history time.Duration) (held journal.Seq, err error)
	// Rebind is a group on the same files, whose VMs are those of d from now on. The old one is used no more, after Run has returned, but by the mounts that have it.
	Rebind(d GroupDeps) (Group, error)
	// Close gives the files back, after Run has returned.
	Close() error
}

// Life is what a group does.
type Life interface {
	// Run protects until ctx ends; taps stay where they are.
	Run(ctx context.Context) error
	// Started returns when the taps are in place.
	Started(ctx context.Context) error
	// Pause takes the taps away for a while, Resume puts them back, Stop takes
	// them away for good. They return when that is done.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	Stop(ctx context.Context) error
	// Leave ends Run where its VMs are left to somebody else: nothing more is taken from them.
	Leave(ctx context.Context) error
	// Obey begins to do what the record says by now, and waits for nobody.
	Obey(r groupRecord)
	// Again makes a stopped group ready for another Run.
	Again() error
}

// Points are a group's recovery points.
type Points interface {
	// Resolve finds the point that is meant, as an *api.Error when there is none.
	Resolve(at journal.Point, now time.Time) (recovery.Point, error)
	// Checkpoint names the newest point, durably; with quiesce above zero one at which
	// the guests are frozen, if that works within the time.
	Checkpoint(ctx context.Context, name string, quiesce time.Duration) (api.Checkpoint, error)
	// Checkpoints are those that were named.
	Checkpoints(ctx context.Context) ([]api.Checkpoint, error)
	// AutoCheckpoints are the newest automatic ones, oldest first, and whether there are
	// older ones; the group knows up to when all is there. It reads the journal.
	AutoCheckpoints(q replica.AutoQuery) ([]api.Checkpoint, bool, error)
	// RemoveCheckpoint forgets a name, durably.
	RemoveCheckpoint(ctx context.Context, name string) error
}

// GroupDeps is what a group gets from the hub.
type GroupDeps struct {
	// Dir is the group's folder; it is made with Create.
	Dir string
	// Create says that the group is new.
	Create bool
	// Seeds are what the volumes of a new group were before.
	Seeds  seeds
	Record groupRecord
	// RunDir is where VMs may make sockets.
	RunDir string
	// OpenVM gives a share of the connection to the VM at a QMP socket.
	OpenVM func(ctx context.Context, qmp string) (vm.VM, error)
	// Keeper gives the connection to the tap keeper, waiting for one if need be.
	Keeper func(ctx context.Context) (*keeper.Client, error)
	// GrantEpoch returns an epoch never granted before, above after.
	GrantEpoch func(ctx context.Context, group journal.GroupID, after journal.Epoch) (journal.Epoch, error)
	// Agents reaches the agent of the record, if it has one.
	Agents agentCaller
	// Freezer freezes the guests of this machine.
	Freezer *guest.Freezer
	Logger  *slog.Logger
}

// OpenGroup makes or opens a group.
type OpenGroup func(ctx context.Context, deps GroupDeps) (Group, error)

// groupRecord is all the hub knows of a group, kept in the catalog and beside
// the group's journal, so that it can be opened while the catalog is away.
type groupRecord struct {
	catalog.Group
	VMs []catalog.VM `json:"vms"`
}

// goal is what whoever protects the group is to do. While its VMs have failed over, an agent goes on as before: it keeps what they may still write there.
func (r *groupRecord) goal() protect.Goal {
	switch {
	case r.Intent != catalog.IntentFailover:
		return goals[r.Intent]
	case r.Agent == "":
		return protect.GoalPause
	}
	return goals[r.Prior]
}

// lives says whether there is anything to do for the group.
func (r *groupRecord) lives() bool {
	return r.Intent != catalog.IntentStop && (r.Intent != catalog.IntentFailover || r.Prior != catalog.IntentStop)
}

// knows says whether the record tells where a VM is.
func (r *groupRecord) knows(vmName string) bool {
	return slices.ContainsFunc(r.VMs, func(m catalog.VM) bool { return m.Name == vmName })
}

// volume is a disk of a VM, if the group has it.
func (r *groupRecord) volume(vmName, disk string) (catalog.Volume, bool) {
	i := slices.IndexFunc(r.Volumes, func(v catalog.Volume) bool { return v.VM == vmName && v.Disk == disk })
	if i < 0 {
		return catalog.Volume{}, false
	}
	return r.Volumes[i], true
}
