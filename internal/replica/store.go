// Package replica keeps a group's folder at the hub: a base image per volume
// and the journal, which together show every volume as it was at any point;
// and it rolls the base forward, so that history does not grow without end.
package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
)

// Config tunes a Store. Zero fields are the defaults given.
type Config struct {
	Journal journal.Options
	// StepSeqs is how many seqs retention moves the base by at most before it
	// drops what that freed. 1,048,576.
	StepSeqs uint64
	// Throttle is called before retention writes n bytes to a base image; it
	// may wait. Its error ends the roll. Nil: no limit.
	Throttle func(ctx context.Context, n int) error
	// Seeds are raw images, durable and on the same file system, that become the base images of volumes with Create.
	Seeds map[journal.VolumeID]string
	// Logger gets what happens in the background. Nothing by default.
	Logger *slog.Logger
}

// EnsureDefaults fills in the zero fields.
func (c *Config) EnsureDefaults() {
	if c.StepSeqs == 0 {
		c.StepSeqs = 1 << 20
	}
	if c.Throttle == nil {
		c.Throttle = func(ctx context.Context, _ int) error { return ctx.Err() }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Journal.Logger == nil {
		c.Journal.Logger = c.Logger
	}
}

// Store is a group's folder: manifest.json, journal/, base/V<number>.raw. All
// methods may be called concurrently. One Store per folder at a time; who
// holds the data directory sees to that.
type Store struct {
	fs  vfs.FS
	dir string
	cfg Config
	log *journal.Log
	// opened is the last seq of the journal when it was opened.
	opened uint64

	// base is the manifest's Base: reads look into the journal above it, and
	// take it anew when what they found was dropped meanwhile.
	base atomic.Uint64

	retaining sync.Mutex // one Retain at a time; held over I/O
	hashing   sync.Mutex // makes the secret of the hashes; held over I/O

	writing sync.Mutex // changes of the manifest, in order; held over its write

	mu struct {
		sync.Mutex // never held over I/O
		manifest   Manifest
		bases      map[journal.VolumeID]*Base
		hashes     map[journal.VolumeID]*hashFile
		pins       map[journal.Seq]int
		closed     bool
	}
}

const (
	manifestName = "manifest.json"
	journalName  = "journal"
	baseName     = "base"
)

// Create makes a group's folder in dir, with an empty journal and the
// manifest's volumes. It is durable on return, but for the entry of dir in its
// parent if that was there. os.ErrExist when dir holds a group already.
func Create(fs vfs.FS, dir string, m Manifest, cfg Config) (*Store, error) {
	cfg.EnsureDefaults()
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("create replica: %w", err)
	}
	for _, d := range []string{dir, filepath.Join(dir, baseName)} {
		if err := fs.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("create replica: %w", err)
		}
	}
	if _, err := fs.Stat(filepath.Join(dir, manifestName)); err == nil {
		return nil, fmt.Errorf("create replica %s: %w", dir, errExist)
	}
	log, err := createJournal(fs, filepath.Join(dir, journalName), m.ID, cfg.Journal)
	if err != nil {
		return nil, err
	}
	s := newStore(fs, dir, m.clone(), cfg, log)
	if err = s.openBases(true); err == nil {
		err = s.change(func(*Manifest) error { return nil })
	}
	if err == nil {
		err = fs.SyncDir(filepath.Dir(filepath.Clean(dir)))
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("create replica %s: %w", dir, err)
	}
	return s, nil
}

// createJournal makes the journal, or takes the empty one that an interrupted
// Create left: the manifest, which is written last, is not there.
func createJournal(fs vfs.FS, dir string, id journal.GroupID, opt journal.Options) (*journal.Log, error) {
	log, err := journal.Create(fs, dir, id, opt)
	if !errors.Is(err, errExist) {
		return log, err
	}
	if log, err = journal.Open(fs, dir, opt); err != nil {
		return nil, err
	}
	if log.Group() != id || log.Appended() != 0 {
		log.Close()
		return nil, fmt.Errorf("create journal in %s: %w", dir, errExist)
	}
	return log, nil
}

// Open opens a group's folder. A roll of the base that was interrupted goes on
// at the next Retain. os.ErrNotExist when there is no group in dir.
func Open(fs vfs.FS, dir string, cfg Config) (*Store, error) {
	cfg.EnsureDefaults()
	m, err := readManifest(fs, filepath.Join(dir, manifestName))
	if err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	cfg.Journal.Promised = m.Oldest
	log, err := journal.Open(fs, filepath.Join(dir, journalName), cfg.Journal)
	if err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	s := newStore(fs, dir, m, cfg, log)
	switch first := log.FirstSeq(); {
	case log.Group() != m.ID:
		err = fmt.Errorf("%w: it is of group %s, the journal of group %s", ErrCorrupt, m.ID, log.Group())
	case first > m.Base+1:
		err = fmt.Errorf("%w: the base holds all up to seq %d, the journal begins at %d: segments are missing", ErrCorrupt, m.Base, first)
	default:
		err = s.openBases(false)
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("open replica %s: %w", dir, err)
	}
	return s, nil
}

func newStore(fs vfs.FS, dir string, m Manifest, cfg Config, log *journal.Log) *Store {
	s := &Store{fs: fs, dir: dir, cfg: cfg, log: log, opened: uint64(log.Appended())}
	s.mu.manifest = m
	s.mu.bases = map[journal.VolumeID]*Base{}
	s.mu.hashes = map[journal.VolumeID]*hashFile{}
	s.mu.pins = map[journal.Seq]int{}
	s.base.Store(uint64(m.Base))
	return s
}

func (s *Store) openBases(create bool) error {
	for i, v := range s.mu.manifest.Volumes {
		if seed, ok := s.cfg.Seeds[v.ID]; ok && create {
			if err := s.seed(&s.mu.manifest.Volumes[i], seed); err != nil {
				return err
			}
			continue
		}
		b, err := openBase(s.fs, s.basePath(v.ID), v.Size, create)
		if err != nil {
			return err
		}
		b.synced.Store(v.Synced)
		s.mu.bases[v.ID] = b
	}
	if create {
		return s.fs.SyncDir(filepath.Join(s.dir, baseName))
	}
	return nil
}

// seed makes a base image of an image, complete as after an initial sync.
func (s *Store) seed(v *Volume, image string) error {
	if err := s.fs.Rename(image, s.basePath(v.ID)); err != nil {
		return fmt.Errorf("take %s as a base image: %w", image, err)
	}
	b, err := openBase(s.fs, s.basePath(v.ID), 0, false)
	if err != nil {
		return err
	}
	s.mu.bases[v.ID] = b
	v.Synced = v.Size
	b.synced.Store(v.Synced)
	return b.grow(v.Size)
}

func (s *Store) basePath(id journal.VolumeID) string {
	return filepath.Join(s.dir, baseName, fmt.Sprintf("V%d.raw", id))
}

// Close closes journal and base images. Views and other users must have ended.
// It may be called twice.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return nil
	}
	s.mu.closed = true
	bases, hashes := s.mu.bases, s.mu.hashes
	s.mu.Unlock()
	err := s.log.Close()
	for _, h := range hashes {
		err = errors.Join(err, h.close())
	}
	for _, b := range bases {
		err = errors.Join(err, b.f.Close())
	}
	return err
}

// Log is the group's journal.
func (s *Store) Log() *journal.Log { return s.log }

// Dir is the group's folder.
func (s *Store) Dir() string { return s.dir }

// StatFS is the space on the disk that the folder is on.
func (s *Store) StatFS() (vfs.Space, error) { return s.fs.StatFS(s.dir) }

// Manifest is a copy of the manifest as it is now.
func (s *Store) Manifest() Manifest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.manifest.clone()
}

// change edits the manifest: first on disk, durably, then in memory.
func (s *Store) change(edit func(*Manifest) error) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	m := s.Manifest()
	if err := edit(&m); err != nil {
		return err
	}
	if err := m.check(); err != nil {
		return err
	}
	if err := manifestKind.Write(s.fs, filepath.Join(s.dir, manifestName), m); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Retention announces a new oldest point in memory before it is on disk.
	m.Oldest = max(m.Oldest, s.mu.manifest.Oldest)
	s.mu.manifest = m
	return nil
}

// AddVolume makes an empty base image, durably. The journal's record of it is
// the caller's to append. Adding a volume again with the same identity does
// nothing.
func (s *Store) AddVolume(v Volume) error {
	if old := s.volume(v.ID); old != nil && old.UUID == v.UUID {
		return nil
	}
	if s.volume(v.ID) != nil { // before its base image is made anew
		return fmt.Errorf("add volume %d: %w: the number is another volume's", v.ID, errExist)
	}
	if err := s.hashFile(v.ID).remove(); err != nil {
		return fmt.Errorf("add volume %d: %w", v.ID, err)
	}
	b, err := openBase(s.fs, s.basePath(v.ID), v.Size, true)
	if err != nil {
		return err
	}
	if err = s.fs.SyncDir(filepath.Join(s.dir, baseName)); err == nil {
		err = s.change(func(m *Manifest) error {
			if m.volume(v.ID) != nil {
				return fmt.Errorf("%w: volume %d is there already", errExist, v.ID)
			}
			m.Volumes = append(m.Volumes, v)
			return nil
		})
	}
	if err != nil {
		b.f.Close()
		return fmt.Errorf("add volume %d: %w", v.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.bases[v.ID] = b
	return nil
}

// ResizeVolume prepares the base image for a new size in bytes, durably. A
// base is never cut before retention comes to a point that is smaller.
func (s *Store) ResizeVolume(id journal.VolumeID, size int64) error {
	b, err := s.Base(id)
	if err != nil {
		return err
	}
	if err := b.grow(size); err != nil {
		return err
	}
	return s.change(func(m *Manifest) error {
		m.volume(id).Size = size
		return nil
	})
}

func (s *Store) volume(id journal.VolumeID) *Volume {
	m := s.Manifest()
	return m.volume(id)
}

// Base is a volume's base image, for the initial sync to write to.
func (s *Store) Base(id journal.VolumeID) (*Base, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.mu.bases[id]
	if b == nil {
		return nil, fmt.Errorf("%w: volume %d", ErrNoVolume, id)
	}
	return b, nil
}

// SyncProgress is what SetSyncProgress made durable: all below it is in the base.
func (s *Store) SyncProgress(id journal.VolumeID) int64 {
	if v := s.volume(id); v != nil {
		return v.Synced
	}
	return 0
}

// SetSyncProgress notes durably that the initial sync has come to byte done.
// Sync the base first. The base is then not written below done any more, unless
// a smaller done allows it.
func (s *Store) SetSyncProgress(id journal.VolumeID, done int64) error {
	b, err := s.Base(id)
	if err != nil {
		return err
	}
	if done < b.synced.Load() {
		if err := s.hashFile(id).end(); err != nil {
			return err
		}
	}
	err = s.change(func(m *Manifest) error {
		v := m.volume(id)
		if v == nil {
			return fmt.Errorf("%w: volume %d", ErrNoVolume, id)
		}
		v.Synced = done
		return nil
	})
	if err == nil {
		b.synced.Store(done)
	}
	return err
}

// Pin keeps a point, and with it every later one, until release is called.
func (s *Store) Pin(at journal.Seq) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return nil, ErrClosed
	}
	if at < s.mu.manifest.Oldest {
		return nil, fmt.Errorf("%w: %d, the oldest is %d", ErrNoPoint, at, s.mu.manifest.Oldest)
	}
	s.mu.pins[at]++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.mu.pins[at]--; s.mu.pins[at] == 0 {
			delete(s.mu.pins, at)
		}
	}), nil
}

// Pinned lists the pinned seqs, ascending.
func (s *Store) Pinned() []journal.Seq {
	s.mu.Lock()
	defer s.mu.Unlock()
	var seqs []journal.Seq
	for at := range s.mu.pins {
		seqs = append(seqs, at)
	}
	slices.Sort(seqs)
	return seqs
}
