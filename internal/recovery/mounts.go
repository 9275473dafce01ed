package recovery

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/vfs"
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
	// Reserve is how many bytes scratch layers leave free on the disk; 512 MiB,
	// or a fortieth of the disk if that is less: half of what the journal leaves.
	// So the journal stops first, a VM that runs from a mount goes on, and what
	// else the hub keeps on that disk still has room when the layer is refused.
	Reserve int64
	// UnmountGrace is how long Unmount waits for clients that are about to go; 2 s.
	UnmountGrace time.Duration
	// ForceGrace is how long a forced Unmount, and Close, wait for requests of
	// clients that are cut off already, as the disk below may hang; 10 s.
	ForceGrace time.Duration
	// BootFile tells the machine's runs apart; /proc/sys/kernel/random/boot_id.
	BootFile string
	Logger   *slog.Logger     // none
	Now      func() time.Time // time.Now
}

// EnsureDefaults fills zero fields.
func (c *Config) EnsureDefaults() {
	if c.FS == nil {
		c.FS = vfs.OS()
	}
	if c.UnmountGrace == 0 {
		c.UnmountGrace = 2 * time.Second
	}
	if c.ForceGrace == 0 {
		c.ForceGrace = 10 * time.Second
	}
	if c.BootFile == "" {
		c.BootFile = "/proc/sys/kernel/random/boot_id"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

// Validate reports what cannot work.
func (c *Config) Validate() error {
	switch {
	case c.Dir == "":
		return errors.New("mounts: no directory")
	case c.Reserve < 0 || c.UnmountGrace < 0 || c.ForceGrace < 0:
		return errors.New("mounts: negative reserve or grace")
	}
	return nil
}

// defaultReserve is Config's, in bytes.
const defaultReserve = 512 << 20

// Mounts holds the mounts of a hub.
type Mounts struct {
	cfg  Config
	boot bootID

	// changes serialises what creates, restores and ends mounts.
	changes sync.Mutex
	state   struct {
		sync.Mutex
		mounts map[string]*mount
		closed bool
	}
}

// New makes a manager without mounts; Restore brings back those of an earlier run.
func New(cfg Config) (*Mounts, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.EnsureDefaults()
	boot, err := readBootID(cfg.BootFile)
	if err != nil {
		return nil, err
	}
	if err := cfg.FS.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of mounts: %w", err)
	}
	if cfg.Reserve == 0 {
		sp, err := cfg.FS.StatFS(cfg.Dir)
		if err != nil {
			return nil, fmt.Errorf("look at the size of the disk of mounts: %w", err)
		}
		cfg.Reserve = min(defaultReserve, sp.Total/40)
	}
	m := &Mounts{cfg: cfg, boot: boot}
	m.state.mounts = make(map[string]*mount)
	return m, nil
}

// Mount serves the group's volumes at a point, each with an empty scratch layer
// if writable. When it returns, the mount is durable. What the catalog refuses
// to record is told to it again by the next Restore.
func (m *Mounts) Mount(ctx context.Context, g Group, at Point, writable bool) (Mount, error) {
	return m.MountAs(ctx, NewID(), g, at, writable)
}

// MountAs is Mount with an id that the caller has noted before, so that the mount is found again whenever the caller is killed.
func (m *Mounts) MountAs(ctx context.Context, id string, g Group, at Point, writable bool) (Mount, error) {
	m.changes.Lock()
	defer m.changes.Unlock()
	if err := m.open(); err != nil {
		return Mount{}, err
	}
	volumes, err := g.Volumes(at.Seq)
	if err != nil {
		return Mount{}, fmt.Errorf("list volumes of group %s at seq %s: %w", g.Name(), at.Seq, err)
	}
	if len(volumes) == 0 {
		return Mount{}, fmt.Errorf("group %s had no volumes at seq %s", g.Name(), at.Seq)
	}
	r := Record{
		ID: id, GroupID: g.ID(), Group: g.Name(), Seq: at.Seq, Time: at.Time,
		Writable: writable, Created: m.cfg.Now().UTC(), Volumes: volumes,
	}
	mt := newMount(r, mountDir(m.cfg.Dir, r.ID))
	if err := m.create(ctx, mt, g); err != nil {
		return Mount{}, errors.Join(fmt.Errorf("mount group %s at seq %s: %w", g.Name(), at.Seq, err), m.removeDir(mt.dir))
	}
	mt.started(nil)
	m.put(mt)
	m.record(ctx, r)
	return mt.describe(m.cfg.Endpoints), nil
}

// create makes the folder and opens everything; the record is written last, so
// that a folder without one is waste.
func (m *Mounts) create(ctx context.Context, mt *mount, g Group) error {
	if err := m.cfg.FS.MkdirAll(mt.dir, 0o700); err != nil {
		return err
	}
	if err := mt.serve(g, &m.cfg, m.boot, true); err != nil {
		return err
	}
	err := ctx.Err()
	if err == nil {
		err = storeRecord(m.cfg.FS, mt.dir, mt.record)
	}
	if err == nil {
		err = m.cfg.FS.SyncDir(m.cfg.Dir)
	}
	if err != nil {
		return errors.Join(err, mt.shut())
	}
	return nil
}

// Unmount ends a mount and discards its scratch layer. While clients are
// connected it waits for the grace, then fails with a *BusyError and the mount
// goes on; with force it cuts them off. A request that hangs in the disk makes
// that too fail with a *BusyError after the grace: try again when it is over.
// When it returns nil, the mount is gone for good.
func (m *Mounts) Unmount(ctx context.Context, id string, force bool) error {
	m.changes.Lock()
	defer m.changes.Unlock()
	if err := m.open(); err != nil {
		return err
	}
	mt, err := m.find(id)
	if err != nil {
		return err
	}
	grace := m.cfg.UnmountGrace
	if force {
		grace = m.cfg.ForceGrace
	}
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if err := mt.end(ctx, force); err != nil {
		return err
	}
	return m.discard(context.WithoutCancel(ctx), mt)
}

// discard removes a mount that nobody is connected to: the record first.
func (m *Mounts) discard(ctx context.Context, mt *mount) error {
	fs := m.cfg.FS
	if err := fs.Remove(mt.dir + "/" + mountFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		mt.resume()
		return fmt.Errorf("unmount %s: %w", mt.record.ID, err)
	}
	err := fs.SyncDir(mt.dir)
	m.state.Lock()
	delete(m.state.mounts, mt.record.ID)
	m.state.Unlock()
	err = errors.Join(err, mt.shut(), m.removeDir(mt.dir))
	m.forget(ctx, mt.record.ID)
	if err != nil {
		return fmt.Errorf("unmount %s: %w", mt.record.ID, err)
	}
	return nil
}

// List is every mount, oldest first.
func (m *Mounts) List() []Mount {
	var list []Mount
	for _, mt := range m.sorted() {
		list = append(list, mt.describe(m.cfg.Endpoints))
	}
	return list
}

// Get is one mount, or ErrNotFound.
func (m *Mounts) Get(id string) (Mount, error) {
	mt, err := m.find(id)
	if err != nil {
		return Mount{}, err
	}
	return mt.describe(m.cfg.Endpoints), nil
}

// Close stops serving and keeps everything for the next Restore. Close the NBD
// server first. A mount with a request that hangs is left open, with a
// *BusyError. It may be called twice.
func (m *Mounts) Close() error {
	m.changes.Lock()
	defer m.changes.Unlock()
	m.state.Lock()
	closed := m.state.closed
	m.state.closed = true
	m.state.Unlock()
	if closed {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), m.cfg.ForceGrace)
	defer cancel()
	var errs []error
	for _, mt := range m.sorted() {
		// A closed server has closed every backend; a forced end waits for stragglers.
		// What a hanging request still uses must not be unmapped.
		err := mt.end(ctx, true)
		if err == nil {
			err = mt.shut()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (m *Mounts) open() error {
	m.state.Lock()
	defer m.state.Unlock()
	if m.state.closed {
		return ErrClosed
	}
	return nil
}

func (m *Mounts) put(mt *mount) {
	m.state.Lock()
	defer m.state.Unlock()
	m.state.mounts[mt.record.ID] = mt
}

func (m *Mounts) find(id string) (*mount, error) {
	m.state.Lock()
	defer m.state.Unlock()
	if mt := m.state.mounts[id]; mt != nil {
		return mt, nil
	}
	return nil, fmt.Errorf("mount %q: %w", id, ErrNotFound)
}

// sorted is every mount, oldest first.
func (m *Mounts) sorted() []*mount {
	m.state.Lock()
	defer m.state.Unlock()
	list := make([]*mount, 0, len(m.state.mounts))
	for _, mt := range m.state.mounts {
		list = append(list, mt)
	}
	slices.SortFunc(list, func(a, b *mount) int {
		return cmp.Or(a.record.Created.Compare(b.record.Created), cmp.Compare(a.record.ID, b.record.ID))
	})
	return list
}

// NewID is an id for MountAs, short enough to type; it cannot be guessed by trying.
func NewID() string { return strings.ToLower(rand.Text()[:12]) }
