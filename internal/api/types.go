// Package api is the hub's HTTP interface and its client: the types that
// people script against, kept apart from what the rooms below use so that
// those may change.
package api

import (
	"encoding/json"
	"time"
)

// State is what a group or a volume is doing.
type State string

// The states of a group.
const (
	StateSyncing    State = "syncing"
	StateProtected  State = "protected"
	StateDegraded   State = "degraded"
	StatePaused     State = "paused"
	StateStopped    State = "stopped"
	StateFailedOver State = "failed-over"
)

// Status is every group, by name.
type Status struct {
	Groups      []GroupStatus `json:"groups" nullable:"false"`
	CatalogNote string        `json:"catalog_note,omitempty" doc:"since when and why the catalog does not answer, for people; left out while it does"`
}

// GroupStatus is one group as it is now.
type GroupStatus struct {
	Name   string `json:"name"`
	ID     string `json:"id" doc:"UUID"`
	Agent  string `json:"agent,omitempty" doc:"name of the agent that protects it; left out when the hub itself does"`
	State  State  `json:"state" enum:"syncing,protected,degraded,paused,stopped,failed-over"`
	Reason string `json:"reason" doc:"why the group is in this state, for people; empty when protected"`
	Hint   string `json:"hint,omitempty" doc:"what to do about it"`
	Epoch  uint64 `json:"epoch"`
	// RPOSeconds is nil while there is no point.
	RPOSeconds *float64 `json:"rpo_seconds" doc:"now minus the time of the newest durable point; null without one"`
	FirstSeq   uint64   `json:"first_seq" doc:"lowest point that can be mounted; 0 without one"`
	LastSeq    uint64   `json:"last_seq" doc:"last seq the tap assigned"`
	FencedSeq  uint64   `json:"fenced_seq"`
	DurableSeq uint64   `json:"durable_seq" doc:"newest point: durable and fenced"`
	// Ranges are the seqs that can be mounted, from and to included.
	Ranges         [][2]uint64    `json:"ranges" nullable:"false"`
	Volumes        []VolumeStatus `json:"volumes" nullable:"false"`
	Unprotected    []string       `json:"unprotected,omitempty" doc:"volumes, as VM/NODE, that its VMs got after all they had was protected, and that no group protects"`
	HistorySeconds float64        `json:"history_seconds" doc:"promised history"`
	// CheckpointEverySeconds is how far automatic checkpoints are apart.
	CheckpointEverySeconds float64    `json:"checkpoint_every_seconds" doc:"how far automatic checkpoints are apart; 0: there are none"`
	JournalBytes           int64      `json:"journal_bytes"`
	SpoolBytes             int64      `json:"spool_bytes,omitempty" doc:"what the agent keeps because the hub has not confirmed it, about; left out when that is nothing, or not known"`
	HeldSeq                uint64     `json:"held_seq,omitempty" doc:"the point from which on history is kept longer than history_seconds"`
	HistoryNote            string     `json:"history_note,omitempty" doc:"why the history is longer than history_seconds, for people"`
	OldestTime             *time.Time `json:"oldest_time,omitempty" doc:"time of first_seq; left out while the disk is too slow to tell"`
	NewestTime             *time.Time `json:"newest_time,omitempty" doc:"time of durable_seq"`
}

// VolumeStatus is one volume of a group.
type VolumeStatus struct {
	Name  string      `json:"name" doc:"VM/NODE, unique in the group"`
	UUID  string      `json:"uuid"`
	VM    string      `json:"vm"`
	Node  string      `json:"node" doc:"the node name when it was last attached"`
	Size  int64       `json:"size" doc:"bytes"`
	State State       `json:"state"`
	Sync  *SyncStatus `json:"sync" doc:"null while no sync runs"`
}

// SyncStatus is how far a sync is.
type SyncStatus struct {
	Kind       string `json:"kind" enum:"initial,bitmap,compare"`
	DoneBytes  int64  `json:"done_bytes"`
	TotalBytes int64  `json:"total_bytes"`
}

// VMSpec says how a VM is reached.
type VMSpec struct {
	Name      string `json:"name" doc:"letters, digits, dot, dash and underscore"`
	QMP       string `json:"qmp" doc:"path of the QMP unix socket, absolute; also unix:PATH or tcp:HOST:PORT"`
	NBDServer string `json:"nbd_server,omitempty" doc:"QEMU's NBD server when something else has started it: unix:PATH or HOST:PORT"`
}

// VM is a VM that was added, with what it says now.
type VM struct {
	VMSpec
	Agent     string     `json:"agent,omitempty" doc:"name of the agent on whose host it runs; left out on the hub's own host"`
	Reachable bool       `json:"reachable"`
	Reason    string     `json:"reason,omitempty" doc:"why it cannot be reached"`
	RunState  string     `json:"run_state,omitempty"`
	Version   string     `json:"version,omitempty" doc:"of the hypervisor"`
	UUID      string     `json:"uuid,omitempty" doc:"that the VM was given; left out when it has none"`
	Group     string     `json:"group,omitempty" doc:"the group that protects it"`
	Volumes   []VMVolume `json:"volumes" nullable:"false"`
}

// VMs is a list.
type VMs struct {
	VMs []VM `json:"vms" nullable:"false"`
}

// VMVolume is a disk of a VM.
type VMVolume struct {
	Name      string `json:"name"`
	Node      string `json:"node"`
	Device    string `json:"device,omitempty"`
	Size      int64  `json:"size" doc:"bytes"`
	Format    string `json:"format,omitempty"`
	File      string `json:"file,omitempty"`
	Protected bool   `json:"protected"`
}

// ProtectRequest starts the protection of VMs as one group.
type ProtectRequest struct {
	VMs            []string `json:"vms" minItems:"1"`
	Group          string   `json:"group,omitempty" doc:"default: the name of the first VM"`
	Volumes        []string `json:"volumes,omitempty" doc:"NODE or VM/NODE; default: all"`
	HistorySeconds float64  `json:"history_seconds,omitempty" minimum:"0" doc:"history to keep; default 24 hours"`
	Seeds          []Seed   `json:"seeds,omitempty" doc:"old disks of all volumes, on the hub's host; they are the first point, and only what differs from them is copied"`
	// CheckpointEverySeconds is nil for the default.
	CheckpointEverySeconds *float64 `json:"checkpoint_every_seconds,omitempty" minimum:"0" maximum:"86400" doc:"how far automatic checkpoints are apart, whole seconds; 0: none; default 5"`
}

// Seed is an old disk of a volume.
type Seed struct {
	Volume string `json:"volume" doc:"NODE or VM/NODE"`
	Path   string `json:"path" doc:"of a disk image on the hub's host, which nobody has open; it is copied, and not changed"`
}

// Checkpoint is a named or automatic point.
type Checkpoint struct {
	Name string    `json:"name"`
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	Kind string    `json:"kind" doc:"named or auto"`
	// Consistency is application when the guests' file systems were frozen.
	Consistency string `json:"consistency" enum:"crash,application" doc:"application: the guests' file systems were frozen at that moment; crash: as after a power loss"`
	Reason      string `json:"reason,omitempty" doc:"why it is crash although application was asked for"`
}

// Checkpoints is a list, oldest first: all that were named, and the newest automatic ones.
type Checkpoints struct {
	Checkpoints []Checkpoint `json:"checkpoints" nullable:"false"`
	More        bool         `json:"more,omitempty" doc:"there are older automatic ones: ask again with their time"`
}

// CheckpointQuery asks for checkpoints.
type CheckpointQuery struct {
	Auto   int       // at most so many automatic ones, the newest
	Before time.Time // only those at or before; zero: all
}

// AutoCheckpoints says how far a group's automatic checkpoints are apart.
type AutoCheckpoints struct {
	EverySeconds float64 `json:"every_seconds" minimum:"0" maximum:"86400" doc:"whole seconds; 0: there are none"`
}

// CheckpointRequest makes a checkpoint of the newest fenced point.
type CheckpointRequest struct {
	Name           string  `json:"name,omitempty" doc:"default: made from the time"`
	Quiesce        bool    `json:"quiesce,omitempty" doc:"freeze the guests' file systems for a moment, through their guest agents; if that does not work the checkpoint is made all the same, and says so"`
	QuiesceSeconds float64 `json:"quiesce_seconds,omitempty" minimum:"0" maximum:"600" doc:"how long the guests may take to be frozen; default 10"`
}

// MountRequest opens a group at a point.
type MountRequest struct {
	Group    string `json:"group" minLength:"1"`
	At       string `json:"at,omitempty" doc:"POINT: latest, seq:N, an RFC 3339 time, -30s, checkpoint:NAME; default latest"`
	Writable bool   `json:"writable,omitempty" doc:"with a scratch layer that is discarded on unmount"`
}

// Mount is a group served at a point.
type Mount struct {
	ID          string        `json:"id"`
	Group       string        `json:"group"`
	Seq         uint64        `json:"seq"`
	Time        time.Time     `json:"time"`
	Writable    bool          `json:"writable"`
	Volumes     []MountVolume `json:"volumes" nullable:"false"`
	Created     time.Time     `json:"created"`
	Connections int           `json:"connections"`
	Error       string        `json:"error,omitempty" doc:"why it is not served"`
}

// MountVolume is one volume of a mount.
type MountVolume struct {
	Name         string   `json:"name" doc:"VM/NODE"`
	URI          string   `json:"uri" doc:"NBD URI; stays the same when the hub restarts"`
	URIs         []string `json:"uris,omitempty" doc:"by every address the hub listens on"`
	Size         int64    `json:"size" doc:"bytes"`
	ScratchBytes int64    `json:"scratch_bytes,omitempty"`
}

// Mounts is a list, oldest first.
type Mounts struct {
	Mounts []Mount `json:"mounts" nullable:"false"`
}

// ExportRequest writes a group's volumes at a point to files on the hub.
type ExportRequest struct {
	At     string `json:"at" doc:"POINT"`
	To     string `json:"to" minLength:"1" doc:"directory on the hub's host, absolute"`
	Format string `json:"format,omitempty" enum:"raw,qcow2" default:"raw"`
}

// ExportResult is the result of an export's task.
type ExportResult struct {
	Group string         `json:"group"`
	Seq   uint64         `json:"seq"`
	Time  time.Time      `json:"time"`
	Files []ExportedFile `json:"files" nullable:"false"`
}

// ExportedFile is one volume in a file.
type ExportedFile struct {
	Name string `json:"name" doc:"VM/NODE"`
	Path string `json:"path"`
	Size int64  `json:"size" doc:"bytes of the volume"`
}

// TaskState is where a task is in its life.
type TaskState string

// A task begins running and ends in one of the others.
const (
	TaskRunning   TaskState = "running"
	TaskDone      TaskState = "done"
	TaskFailed    TaskState = "failed"
	TaskCancelled TaskState = "cancelled"
)

// Progress says what a task does now.
type Progress struct {
	Step       string `json:"step,omitempty" doc:"for people"`
	DoneBytes  int64  `json:"done_bytes"`
	TotalBytes int64  `json:"total_bytes" doc:"0 when not known"`
}

// Task is work that takes longer than a request.
type Task struct {
	ID       string          `json:"id"`
	Kind     string          `json:"kind" doc:"protect, unprotect, pause, resume, export, failover-test, failover, failover-commit, failover-rollback or drill"`
	Group    string          `json:"group,omitempty"`
	State    TaskState       `json:"state" enum:"running,done,failed,cancelled"`
	Revision uint64          `json:"revision" doc:"grows with every change"`
	Progress Progress        `json:"progress"`
	Result   json.RawMessage `json:"result,omitempty" doc:"depends on the kind; when done"`
	Error    *Error          `json:"error,omitempty" doc:"when failed or cancelled"`
	Created  time.Time       `json:"created"`
	Updated  time.Time       `json:"updated"`
}

// Finished says whether the task has ended, however.
func (t *Task) Finished() bool { return t.State != TaskRunning }

// Tasks is a list, newest first.
type Tasks struct {
	Tasks []Task `json:"tasks" nullable:"false"`
}

// Info is about the hub itself.
type Info struct {
	Version string        `json:"version"`
	Data    string        `json:"data" doc:"data directory"`
	PID     int           `json:"pid"`
	Started time.Time     `json:"started"`
	NBD     []string      `json:"nbd" nullable:"false" doc:"where mounts are served"`
	API     []string      `json:"api" nullable:"false"`
	Agents  []string      `json:"agents" nullable:"false" doc:"where agents connect"`
	Catalog CatalogStatus `json:"catalog"`
	Keeper  KeeperStatus  `json:"keeper"`
}

// CatalogStatus says how the catalog is.
type CatalogStatus struct {
	Available bool     `json:"available"`
	Endpoints []string `json:"endpoints" nullable:"false"`
	PID       int      `json:"pid,omitempty" doc:"of the catalog server that the hub runs"`
	Restarts  int      `json:"restarts" doc:"times it had to be started again"`
	Reason    string   `json:"reason,omitempty"`
}

// KeeperStatus says how the tap keeper is.
type KeeperStatus struct {
	Connected bool   `json:"connected"`
	PID       int    `json:"pid,omitempty"`
	Reason    string `json:"reason,omitempty"`
}
