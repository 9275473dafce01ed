package recovery

import (
	"context"
	"log/slog"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
	"github.com/rephub/rephub/nbd"
)

// Config of a Mounts. Zero fields are the defaults named here.
type Config struct {
	// Dir holds one folder per mount.
	Dir string
	// Endpoints says where the NBD server listens, for the URIs: "unix:PATH"
	// and "HOST:PORT", as in --nbd. The first gives a volume's main URI.
	Endpoints []string
	// FS is the file seam; vfs.OS().
	FS vfs.FS
	// Records gets a copy of every record; none.
	Records Records
	// UnmountGrace is how long Unmount waits for clients that are about to go; 2 s.
	UnmountGrace time.Duration
	Logger       *slog.Logger     // none
	Now          func() time.Time // time.Now
}

// Mounts holds the mounts of a hub and offers them as nbd.Exports.
type Mounts struct{}

// Exports offers the mounts to an nbd.Server, under the names MOUNTID/VM/NODE.
func (m *Mounts) Exports() nbd.Exports { return nil }

// New makes a manager without mounts; Restore brings back those of an earlier run.
func New(cfg Config) (*Mounts, error) { return &Mounts{}, nil }

// Restore serves again every mount found in Dir. open gives the group of a
// record. Call it before any retention runs, because a point is pinned only
// while its mount is open. A mount that cannot be served stays listed, with
// the reason, and is tried again by the next Restore.
func (m *Mounts) Restore(ctx context.Context, open func(context.Context, Record) (Group, error)) error {
	return nil
}

// Mount serves the group's volumes at a point. When it returns, the record is durable.
func (m *Mounts) Mount(ctx context.Context, g Group, at Point, writable bool) (Mount, error) {
	return Mount{}, nil
}

// Unmount ends a mount and discards its scratch layer. While clients are
// connected it fails with a *BusyError unless force, which cuts them off.
func (m *Mounts) Unmount(ctx context.Context, id string, force bool) error { return nil }

// List is every mount, oldest first.
func (m *Mounts) List() []Mount { return nil }

// Get is one mount, or ErrNotFound.
func (m *Mounts) Get(id string) (Mount, error) { return Mount{}, nil }

// Close stops serving and keeps everything for the next Restore. Close the NBD
// server first. It may be called twice.
func (m *Mounts) Close() error { return nil }

// Format of exported files.
type Format string

// The formats.
const (
	Raw   Format = "raw"
	Qcow2 Format = "qcow2"
)

// ExportProgress says how far an export is.
type ExportProgress struct {
	Volume      string
	Done, Total int64 // bytes, over all volumes
}

// File is one exported volume.
type File struct {
	Volume string
	Path   string
	Size   int64 // bytes of the volume
}

// Export writes the group's volumes at a point into dir.
func ExportTo(ctx context.Context, g Group, at journal.Seq, dir string, format Format, progress func(ExportProgress)) ([]File, error) {
	return nil, nil
}
