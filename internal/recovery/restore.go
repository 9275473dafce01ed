package recovery

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rephub/rephub/internal/vfs"
)

// Restore serves again every mount found in Dir, under the same ids and URIs.
// open gives the group of a record. Call it before any retention runs, because
// a point is pinned only while its mount is open. A mount that cannot be served
// stays listed, with the reason, and is tried again by the next Restore. The
// error joins those reasons.
func (m *Mounts) Restore(ctx context.Context, open func(context.Context, Record) (Group, error)) error {
	m.changes.Lock()
	defer m.changes.Unlock()
	if err := m.open(); err != nil {
		return err
	}
	entries, err := m.cfg.FS.ReadDir(m.cfg.Dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotListed, err)
	}
	var errs []error
	for _, e := range entries {
		if !e.IsDir() || ctx.Err() != nil {
			continue
		}
		if err := m.restoreDir(ctx, e.Name(), open); err != nil {
			m.cfg.Logger.Error("restore mount", "mount", e.Name(), "err", err)
			errs = append(errs, fmt.Errorf("restore mount %s: %w", e.Name(), err))
		}
	}
	m.reconcile(ctx)
	return errors.Join(append(errs, ctx.Err())...)
}

// restoreDir serves the mount in one folder, unless it is served already.
func (m *Mounts) restoreDir(ctx context.Context, id string, open func(context.Context, Record) (Group, error)) error {
	dir := mountDir(m.cfg.Dir, id)
	mt, err := m.find(id)
	if err != nil {
		r, err := loadRecord(m.cfg.FS, dir)
		if errors.Is(err, os.ErrNotExist) {
			return m.removeDir(dir) // killed while mounting or unmounting
		}
		if err == nil && r.ID != id {
			err = fmt.Errorf("%w: holds the record of mount %s", ErrCorrupt, r.ID)
		}
		if errors.Is(err, ErrCorrupt) {
			r, err = m.mend(ctx, id, err)
		}
		if err != nil {
			mt = newMount(Record{ID: id}, dir) // listed, so that it can be unmounted
			mt.started(err)
			m.put(mt)
			return err
		}
		mt = newMount(r, dir)
		m.put(mt)
	} else if mt.served() || mt.record.Volumes == nil {
		return nil
	}
	g, err := open(ctx, mt.record)
	if err == nil {
		err = mt.serve(g, &m.cfg, m.boot, false)
	}
	mt.started(err)
	return err
}

// mend puts the catalog's copy in the place of a damaged record, so that the
// point is known and stays. Without a copy the damage is the error.
func (m *Mounts) mend(ctx context.Context, id string, damage error) (Record, error) {
	if m.cfg.Records == nil {
		return Record{}, damage
	}
	copies, err := m.cfg.Records.Mounts(ctx)
	if err != nil {
		return Record{}, errors.Join(damage, err)
	}
	i := slices.IndexFunc(copies, func(r Record) bool { return r.ID == id && len(r.Volumes) > 0 })
	if i < 0 {
		return Record{}, damage
	}
	m.cfg.Logger.Warn("mount's record is damaged, using the catalog's copy", "mount", id, "err", damage)
	if err := storeRecord(m.cfg.FS, mountDir(m.cfg.Dir, id), copies[i]); err != nil {
		m.cfg.Logger.Warn("mend mount's record", "mount", id, "err", err) // the next Restore does it
	}
	return copies[i], nil
}

// reconcile brings the catalog's copies in line with the folders.
func (m *Mounts) reconcile(ctx context.Context) {
	if m.cfg.Records == nil {
		return
	}
	old, err := m.cfg.Records.Mounts(ctx)
	if err != nil {
		m.cfg.Logger.Warn("list mounts in the catalog", "err", err)
		return
	}
	for _, r := range old {
		if _, err := m.find(r.ID); err != nil {
			m.forget(ctx, r.ID)
		}
	}
	for _, mt := range m.sorted() {
		if mt.record.Volumes != nil {
			m.record(ctx, mt.record)
		}
	}
}

// record copies a record to the catalog; the folder's is the one that counts.
func (m *Mounts) record(ctx context.Context, r Record) {
	if m.cfg.Records == nil {
		return
	}
	if err := m.cfg.Records.PutMount(ctx, r); err != nil {
		m.cfg.Logger.Warn("record mount in the catalog", "mount", r.ID, "err", err)
	}
}

func (m *Mounts) forget(ctx context.Context, id string) {
	if m.cfg.Records == nil {
		return
	}
	if err := m.cfg.Records.DeleteMount(ctx, id); err != nil {
		m.cfg.Logger.Warn("remove mount from the catalog", "mount", id, "err", err)
	}
}

// served tells whether clients may connect.
func (m *mount) served() bool {
	m.state.Lock()
	defer m.state.Unlock()
	return m.state.err == nil
}

// resume takes back an end that came to nothing.
func (m *mount) resume() {
	m.state.Lock()
	defer m.state.Unlock()
	m.state.ending = false
}

// removeDir removes a mount's folder and the files in it.
func (m *Mounts) removeDir(dir string) error { return removeAll(m.cfg.FS, dir) }

func removeAll(fs vfs.FS, dir string) error {
	entries, err := fs.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, fs.Remove(filepath.Join(dir, e.Name())))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	if err := fs.Remove(dir); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return fs.SyncDir(filepath.Dir(dir))
}

// readBootID reads the kernel's UUID of this run of the machine.
func readBootID(file string) (id bootID, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return id, fmt.Errorf("read boot id: %w", err)
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	if err != nil || len(raw) != len(id) {
		return id, fmt.Errorf("read boot id: %s does not hold a UUID", file)
	}
	copy(id[:], raw)
	return id, nil
}
