// Package recovery opens a group's volumes as they were at a recovery point:
// mounts served over NBD, read-only or with a scratch layer, and exports to
// files, because a point is worth nothing until a VM can boot from it.
package recovery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/vfs/sealed"
	"github.com/rephub/rephub/journal"
)

// Group is what recovery needs of a group's replica. Methods may be called concurrently.
type Group interface {
	// ID is the group's identity, Name what people call it.
	ID() journal.GroupID
	Name() string
	// Volumes lists the volumes that the group had at a point.
	Volumes(at journal.Seq) ([]Volume, error)
	// View opens a volume at a point.
	View(volume journal.VolumeID, at journal.Seq) (View, error)
	// Pin keeps a point until release is called.
	Pin(at journal.Seq) (release func(), err error)
}

// Volume is one disk of a group.
type Volume struct {
	ID   journal.VolumeID `json:"id"`
	Name string           `json:"name"` // VM/NODE, unique in the group
	Size int64            `json:"size"` // bytes, at the point
}

// View is a volume at one point: immutable. Methods may be called concurrently.
type View interface {
	// ReadAtContext fills p wholly from byte off, or fails.
	ReadAtContext(ctx context.Context, p []byte, off int64) (int, error)
	Size() int64
	// Extents tells which bytes of [off, off+n) are holes, in order, all covered.
	Extents(off, n int64) ([]block.Extent, error)
	Close() error
}

// Records is where the hub's catalog keeps a copy of every mount's record.
// The mount's own folder decides when they differ.
type Records interface {
	PutMount(ctx context.Context, r Record) error
	DeleteMount(ctx context.Context, id string) error
	Mounts(ctx context.Context) ([]Record, error)
}

// Record is all that is needed to serve a mount again.
type Record struct {
	ID       string          `json:"id"`
	GroupID  journal.GroupID `json:"group_id"`
	Group    string          `json:"group"` // name
	Seq      journal.Seq     `json:"seq"`
	Time     time.Time       `json:"time"` // of the point
	Writable bool            `json:"writable"`
	Created  time.Time       `json:"created"`
	Volumes  []Volume        `json:"volumes"`
}

// Mount is a Record with what it is doing.
type Mount struct {
	Record
	Exports     []Export
	Connections int    // clients connected now, all volumes together
	Err         string // why it is not served; empty when it is
}

// Export is one volume of a mount.
type Export struct {
	Volume
	URI         string   // where to find it, by the first endpoint
	URIs        []string // by every endpoint
	Connections int
	// ScratchBytes is the space that the scratch layer takes; 0 when read-only.
	ScratchBytes int64
}

// Point is a seq with the time of its write.
type Point struct {
	Seq  journal.Seq
	Time time.Time
}

// Errors callers branch on.
var (
	// ErrNotFound: no mount has this id.
	ErrNotFound = errors.New("no such mount")
	// ErrNotListed: which points are mounted is not known, so none is pinned.
	ErrNotListed = errors.New("the mounts cannot be listed")
	// ErrClosed: the manager was closed.
	ErrClosed = errors.New("mounts are closed")
	// ErrScratchFailed: the disk refused a sync of a scratch layer, so what was
	// written since the last good one cannot be trusted. It sticks.
	ErrScratchFailed = errors.New("scratch layer sync failed")
	// ErrCorrupt: a file of a mount is not what was written.
	ErrCorrupt = sealed.ErrCorrupt
	// ErrVersion: a file of a mount is of a version this program does not know.
	ErrVersion = sealed.ErrVersion
)

// BusyError refuses to unmount what clients are connected to.
type BusyError struct {
	ID          string
	Connections int
	Cut         bool // they were cut off, but requests of theirs hang
}

func (e *BusyError) Error() string {
	if e.Cut {
		return fmt.Sprintf("mount %s is in use: requests of %d connections that were cut off hang in the disk", e.ID, e.Connections)
	}
	return fmt.Sprintf("mount %s is in use: %d connections", e.ID, e.Connections)
}

// SpaceError refuses an export that does not fit.
type SpaceError struct {
	Dir        string
	Need, Free int64 // bytes
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("%s has %d bytes free, the export needs up to %d", e.Dir, e.Free, e.Need)
}

// ToolError says that a program we need is not there.
type ToolError struct {
	Tool, Hint string
	Err        error
}

func (e *ToolError) Error() string { return fmt.Sprintf("run %s: %v", e.Tool, e.Err) }
func (e *ToolError) Unwrap() error { return e.Err }
