// Package host is what a hub and the agent on a KVM host say to each other over
// their connection, so that neither has to know the other's insides. Calls are
// JSON (see relay); pipes are byte streams.
package host

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/sync"
	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/journal"
)

// Calls that a hub makes.
const (
	CallVMs        = "vm.list"       // nothing → VMs
	CallInspect    = "vm.inspect"    // Name → api.VM
	CallDefinition = "vm.definition" // VM → vm.Definition, of the VM that was protected only
	CallApply      = "group.apply"   // Group → nothing: do this from now on
	CallAwait      = "group.await"   // Await → nothing, when it is so
	CallFresh      = "group.fresh"   // ID → Fresh
	CallQuiesce    = "group.quiesce" // Quiesce → Quiesced
	CallGroups     = "group.list"    // nothing → Has
	CallPower      = "vm.power"      // Power → Powered, of the VM that was protected only
	CallForget     = "group.forget"  // Groups → nothing: take their taps away and forget them
)

// Calls that an agent makes.
const (
	CallHello    = "agent.hello"   // Hello → nothing; the first one
	CallGrant    = "epoch.grant"   // Grant → Granted
	CallStatus   = "group.status"  // Statuses → nothing
	CallProgress = "base.progress" // Progress → nothing, durable
	CallResize   = "volume.resize" // Resize → nothing, durable
)

// Hello is what an agent says of itself.
type Hello struct {
	Version string `json:"version"`
	Host    string `json:"host"`           // what the host calls itself
	Boot    string `json:"boot,omitempty"` // protect.BootID
}

// VM is a VM that an agent has found.
type VM struct {
	Name      string `json:"name"`
	QMP       string `json:"qmp"`
	NBDServer string `json:"nbd_server,omitempty"`
	UUID      string `json:"uuid,omitempty"`   // of a group's VM, if it has one: names are given again
	Reason    string `json:"reason,omitempty"` // why it cannot be used, if so
}

// VMs is a list.
type VMs struct {
	VMs []VM `json:"vms"`
}

// Name of a VM.
type Name struct {
	Name string `json:"name"`
}

// Group is a group as its hub wants it.
type Group struct {
	ID      journal.GroupID  `json:"id"`
	Name    string           `json:"name"`
	Hub     string           `json:"hub,omitempty"` // id of the hub whose group it is
	Goal    protect.Goal     `json:"goal"`
	VMs     []VM             `json:"vms"` // where they were found when the group was made
	Volumes []protect.Volume `json:"volumes"`
}

// Power does something with a VM's guest; "" asks only.
type Power struct {
	VM VM             `json:"vm"`
	Do vm.PowerAction `json:"do"`
}

// Powered is how it is then.
type Powered struct {
	State vm.RunState `json:"state"`
	Gone  bool        `json:"gone"` // the VM has ended
}

// ID of a group.
type ID struct {
	ID journal.GroupID `json:"id"`
}

// Has lists the groups that an agent has.
type Has struct {
	Groups []Held `json:"groups"`
}

// Held is a group that an agent has, and the hub that gave it.
type Held struct {
	ID  journal.GroupID `json:"id"`
	Hub string          `json:"hub,omitempty"`
}

// Groups is a list.
type Groups struct {
	IDs []journal.GroupID `json:"ids"`
}

// Await is a state to wait for. For protect.StateSyncing the call returns when
// the taps are in place, or says why they are not yet.
type Await struct {
	ID    journal.GroupID `json:"id"`
	State protect.State   `json:"state"`
}

// Fresh is the newest seq that was assigned. While the group is protected a point
// that has it comes by itself.
type Fresh struct {
	Seq       journal.Seq `json:"seq"`
	Protected bool        `json:"protected"`
}

// Quiesce has the guests of a group frozen for a moment, within Patience.
type Quiesce struct {
	ID       journal.GroupID `json:"id"`
	Patience time.Duration   `json:"patience_ns"`
}

// Quiesced is the last seq before that moment, and how long ago it was. Failed is
// why there was none, for people.
type Quiesced struct {
	Seq    journal.Seq   `json:"seq"`
	Age    time.Duration `json:"age_ns"`
	Failed string        `json:"failed,omitempty"`
}

// Grant asks for an epoch above After.
type Grant struct {
	Group journal.GroupID `json:"group"`
	After journal.Epoch   `json:"after"`
}

// Granted is an epoch never granted before.
type Granted struct {
	Epoch journal.Epoch `json:"epoch"`
}

// Status is how a group is, seen from its host. What only the hub knows, its
// points, is not in it.
type Status struct {
	ID     journal.GroupID `json:"id"`
	State  protect.State   `json:"state"`
	Reason string          `json:"reason,omitempty"`
	Hint   string          `json:"hint,omitempty"`
	Epoch  journal.Epoch   `json:"epoch"`
	Last   journal.Seq     `json:"last"`
	Fenced journal.Seq     `json:"fenced"`
	// Point is the newest durable point as the agent knows it, Age how long ago
	// it was the newest state of the group; negative without a point.
	Point   journal.Seq    `json:"point"`
	Age     time.Duration  `json:"age_ns"`
	Volumes []VolumeStatus `json:"volumes"`
	Stalled string         `json:"stalled,omitempty"` // why the hub takes nothing now, in its words
	// Others are the volumes of its VMs that are not the group's.
	Others []protect.DiskName `json:"others,omitempty"`
	// SpoolBytes are kept for the hub, in whole segments of the spool.
	SpoolBytes int64 `json:"spool_bytes"`
}

// Statuses of some groups.
type Statuses struct {
	Now int64 `json:"now"` // the host's wall clock, ns since 1970
	// Trip is how long the call before this one took, there and back; 0: unknown.
	Trip   time.Duration `json:"trip_ns"`
	Groups []Status      `json:"groups"`
}

// VolumeStatus is a volume of a group.
type VolumeStatus struct {
	ID    journal.VolumeID `json:"id"`
	Node  string           `json:"node"`
	Size  int64            `json:"size"`
	State protect.State    `json:"state"`
	Sync  *SyncStatus      `json:"sync,omitempty"`
}

// SyncStatus is how far a sync is.
type SyncStatus struct {
	Kind string `json:"kind"`
	sync.Progress
}

// Progress of an initial sync: all below Done is in the base, and durable.
type Progress struct {
	Group  journal.GroupID  `json:"group"`
	Volume journal.VolumeID `json:"volume"`
	Done   int64            `json:"done"`
}

// Resize prepares the base for another size.
type Resize struct {
	Group  journal.GroupID  `json:"group"`
	Volume journal.VolumeID `json:"volume"`
	Size   int64            `json:"size"`
}

// PipeKind is what a pipe is for. Agents open them.
type PipeKind string

// The pipes.
const (
	// PipeEnd: the hub sends a JSON journal.Start, where the group's journal
	// ends, and closes.
	PipeEnd PipeKind = "end"
	// PipeBase: the hub sends Progress as one line of JSON, then it is an NBD
	// server with the volume's base image as the default export.
	PipeBase PipeKind = "base"
	// PipeCurrent: the hub answers sync's questions about the volume as it is.
	PipeCurrent PipeKind = "current"
)

// Pipe names a pipe.
type Pipe struct {
	Kind   PipeKind
	Group  journal.GroupID
	Volume journal.VolumeID // 0 for PipeEnd
}

// String is the pipe's name.
func (p Pipe) String() string {
	return fmt.Sprintf("%s/%s/%d", p.Kind, p.Group, p.Volume)
}

// ParsePipe reads a name.
func ParsePipe(s string) (Pipe, error) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 {
		return Pipe{}, fmt.Errorf("pipe %q: no kind, group and volume", s)
	}
	id, err := journal.ParseGroupID(parts[1])
	if err != nil {
		return Pipe{}, fmt.Errorf("pipe %q: %w", s, err)
	}
	vol, err := strconv.ParseUint(parts[2], 10, 32)
	if err != nil {
		return Pipe{}, fmt.Errorf("pipe %q: %w", s, err)
	}
	p := Pipe{Kind: PipeKind(parts[0]), Group: id, Volume: journal.VolumeID(vol)}
	switch p.Kind {
	case PipeEnd, PipeBase, PipeCurrent:
		return p, nil
	}
	return Pipe{}, fmt.Errorf("pipe %q: of no known kind", s)
}
