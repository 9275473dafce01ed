package catalog

import (
	"time"

	"github.com/rephub/rephub/journal"
)

// VM is a VM that somebody added to a hub.
type VM struct {
	Name      string    `json:"name"`
	QMP       string    `json:"qmp"`
	NBDServer string    `json:"nbd_server,omitempty"`
	UUID      string    `json:"uuid,omitempty"`  // its own, if it has one
	Agent     string    `json:"agent,omitempty"` // id of the one on whose host it runs; none: the hub's own
	Created   time.Time `json:"created"`
}

// Intent is what the user wants of a group.
type Intent string

// The intents.
const (
	IntentProtect Intent = "protect"
	IntentPause   Intent = "pause"
	IntentStop    Intent = "stop"
	// IntentFailover: its VMs run from a point, and nothing is taken from where they were.
	IntentFailover Intent = "failover"
)

// Group is a consistency group of a hub. Its folder in the
// hub's data has its name.
type Group struct {
	ID      journal.GroupID `json:"id"`
	Name    string          `json:"name"` // unique in the catalog
	Hub     string          `json:"hub"`  // whose data it is in
	Intent  Intent          `json:"intent"`
	Prior   Intent          `json:"prior,omitempty"` // before a failover
	History time.Duration   `json:"history_ns"`
	Volumes []Volume        `json:"volumes"`
	Created time.Time       `json:"created"`
	// CheckpointEvery is how far automatic checkpoints are apart; 0: the default, below: none.
	CheckpointEvery time.Duration `json:"checkpoint_every_ns,omitempty"`

	Whole bool   `json:"whole,omitempty"` // all volumes of its VMs were meant
	Agent string `json:"agent,omitempty"` // id of the one that protects it; none: the hub itself
}

// Volume is a volume of a group, with an identity of its own.
type Volume struct {
	UUID string           `json:"uuid"`
	ID   journal.VolumeID `json:"id"`   // in the group's journal
	Name string           `json:"name"` // VM/NODE when it was added; unique in the group
	VM   string           `json:"vm"`
	Disk string           `json:"disk"` // the volume's name in its VM
	Node string           `json:"node"` // when it was added; looked up again at every attach
	Size int64            `json:"size"` // bytes
}

// Mount is a mount of a hub.
type Mount struct {
	ID       string          `json:"id"`
	GroupID  journal.GroupID `json:"group_id"`
	Group    string          `json:"group"`
	Seq      journal.Seq     `json:"seq"`
	Time     time.Time       `json:"time"`
	Writable bool            `json:"writable"`
	Created  time.Time       `json:"created"`
	Volumes  []MountVolume   `json:"volumes"`
}

// MountVolume is a volume of a mount.
type MountVolume struct {
	ID   journal.VolumeID `json:"id"`
	Name string           `json:"name"`
	Size int64            `json:"size"` // bytes
}

// Checkpoint is a named point of a group.
type Checkpoint struct {
	Name    string      `json:"name"`
	Seq     journal.Seq `json:"seq"`
	Time    time.Time   `json:"time"`
	Created time.Time   `json:"created"`
}
