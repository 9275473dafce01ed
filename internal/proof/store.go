package proof

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/sealed"
)

// Keep is how many reports are kept of a group; the oldest go.
const Keep = 100

// Names in the folder of reports.
//
//	pending/TEST           a test that has begun and has no report yet, or is not taken away yet
//	groups/NAME/ID/        a report: report.json, report.html, screen-N.png; without a report.json it is being written or removed
const (
	pendingDir = "pending"
	groupsDir  = "groups"
	jsonName   = "report.json"
	pageName   = "report.html"
)

// ErrNotFound: there is no such report.
var ErrNotFound = errors.New("no such report")

var (
	reportKind  = sealed.Kind{Magic: "rephub-report", Version: 1}
	pendingKind = sealed.Kind{Magic: "rephub-report-pending", Version: 1}
)

// Store keeps reports in a folder. Its methods may be called at once.
type Store struct {
	fs     vfs.FS
	dir    string
	logger *slog.Logger

	mu sync.Mutex // held while something is written or removed
}

// Open makes or opens a folder of reports. What was being written when an earlier process was killed is removed; Pending tells of it.
func Open(fsys vfs.FS, dir string, logger *slog.Logger) (*Store, error) {
	s := &Store{fs: fsys, dir: dir, logger: logger}
	for _, d := range []string{s.path(pendingDir), s.path(groupsDir)} {
		if err := fsys.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make the folder of reports: %w", err)
		}
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := fsys.SyncDir(d); err != nil {
			return nil, fmt.Errorf("make the folder of reports: %w", err)
		}
	}
	groups, err := s.names(groupsDir)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		ids, err := s.names(groupsDir, g)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			if s.whole(g, id) {
				continue
			}
			if err := s.remove(s.path(groupsDir, g, id)); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// names are those in a folder, in order; none if it is not there.
func (s *Store) names(elem ...string) (names []string, err error) {
	entries, err := s.fs.ReadDir(s.path(elem...))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// whole says whether a report has been written to its end.
func (s *Store) whole(group, id string) bool {
	_, err := s.fs.Stat(s.path(groupsDir, group, id, jsonName))
	return !errors.Is(err, fs.ErrNotExist) // what cannot be looked at is not removed
}

// remove removes a folder of files, that first without which it is no report.
func (s *Store) remove(dir string) error {
	err := s.fs.Remove(filepath.Join(dir, jsonName))
	if err == nil {
		err = s.fs.SyncDir(dir)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("remove an old report: %w", err)
	}
	entries, err := s.fs.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, s.fs.Remove(filepath.Join(dir, e.Name())))
	}
	if err = errors.Join(err, s.fs.Remove(dir)); err != nil {
		return fmt.Errorf("remove an old report: %w", err)
	}
	return nil
}

// idTime is how the time stands in the id of a report: ids are in the order of time.
const idTime = "20060102T150405.000Z"

// NewID is that of the report of a test.
func NewID(started time.Time, failover string) string {
	return started.UTC().Format(idTime) + "-" + failover
}

// Begin notes, durably, that a test is being made, so that there is a report of it whatever comes. r is what is known so far.
func (s *Store) Begin(r Report) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return pendingKind.Write(s.fs, s.path(pendingDir, r.Failover), &r)
}

// Finish keeps a report, all of it or nothing. The test stays pending until Done.
func (s *Store) Finish(r *Report) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range r.VMs {
		if v := &r.VMs[i]; len(v.png) > 0 {
			v.Screen = fmt.Sprintf("screen-%d.png", i)
		}
	}
	page, err := r.page()
	if err != nil {
		return err
	}
	dir := s.path(groupsDir, r.Group, r.ID)
	if err := s.fs.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keep a report: %w", err)
	}
	write := func(name string, p []byte) {
		if err == nil {
			err = vfs.WriteFileAtomic(s.fs, filepath.Join(dir, name), p, 0o600)
		}
	}
	for i := range r.VMs {
		if v := &r.VMs[i]; v.Screen != "" {
			write(v.Screen, v.png)
		}
	}
	write(pageName, page)
	for _, above := range []string{s.path(groupsDir), s.path(groupsDir, r.Group)} { // the folders may be new
		if err == nil {
			err = s.fs.SyncDir(above)
		}
	}
	if err == nil { // with this it is there
		err = reportKind.Write(s.fs, filepath.Join(dir, jsonName), r)
	}
	if err != nil {
		return fmt.Errorf("keep a report: %w", errors.Join(err, s.remove(dir)))
	}
	if err := s.bound(r.Group); err != nil {
		s.logger.Warn("remove old reports", "group", r.Group, "err", err)
	}
	return nil
}

// bound removes the oldest reports of a group.
func (s *Store) bound(group string) error {
	ids, err := s.names(groupsDir, group)
	if err != nil {
		return err
	}
	for len(ids) > Keep {
		if err := s.remove(s.path(groupsDir, group, ids[0])); err != nil {
			return err
		}
		ids = ids[1:]
	}
	return nil
}

// Done forgets that a test is pending: it has its report, and is taken away if it was to be.
func (s *Store) Done(failover string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fs.Remove(s.path(pendingDir, failover)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.fs.SyncDir(s.path(pendingDir))
}

// Pending are the tests that have begun and are not Done. One whose note cannot be read is an error beside the others.
func (s *Store) Pending() (all []Report, err error) {
	names, err := s.names(pendingDir)
	for _, name := range names {
		if strings.HasSuffix(name, vfs.TempSuffix) {
			err = errors.Join(err, s.fs.Remove(s.path(pendingDir, name)))
			continue
		}
		var r Report
		rerr := pendingKind.Read(s.fs, s.path(pendingDir, name), &r)
		if rerr == nil && r.Failover != name {
			rerr = fmt.Errorf("the note %s is of %s", name, r.Failover)
		}
		if rerr != nil {
			err = errors.Join(err, fmt.Errorf("a failover test that was interrupted has no report: %w", rerr))
			continue
		}
		all = append(all, r)
	}
	return all, err
}

// List are the reports of a group, or of all when group is empty, the newest first. One that cannot be read is an error beside the others.
func (s *Store) List(group string) (all []Report, err error) {
	groups := []string{group}
	if group == "" {
		if groups, err = s.names(groupsDir); err != nil {
			return nil, err
		}
	} else if filepath.Base(group) != group {
		return nil, nil // no name of a group
	}
	var errs []error
	for _, g := range groups {
		ids, err := s.names(groupsDir, g)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			r, err := s.read(g, id)
			if errors.Is(err, fs.ErrNotExist) {
				continue // it is being written or removed
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			all = append(all, r)
		}
	}
	slices.SortStableFunc(all, func(a, b Report) int { return b.Started.Compare(a.Started) })
	return all, errors.Join(errs...)
}

func (s *Store) read(group, id string) (r Report, err error) {
	err = reportKind.Read(s.fs, s.path(groupsDir, group, id, jsonName), &r)
	return r, err
}

// Get is a report: the newest one of a group, or one by its id, or by that of its test.
func (s *Store) Get(which string) (Report, error) {
	groups, err := s.names(groupsDir)
	if err != nil {
		return Report{}, err
	}
	for _, g := range groups {
		ids, err := s.names(groupsDir, g)
		if err != nil {
			return Report{}, err
		}
		for _, id := range slices.Backward(ids) {
			_, test, _ := strings.Cut(id, "-")
			if g != which && id != which && test != which {
				continue
			}
			if r, err := s.read(g, id); !errors.Is(err, fs.ErrNotExist) {
				return r, err
			}
		}
	}
	return Report{}, ErrNotFound
}

// maxPage bounds what is read of a report's page, bytes.
const maxPage = 256 << 20

// Page is a report's page.
func (s *Store) Page(r Report) ([]byte, error) {
	return vfs.ReadFile(s.fs, s.path(groupsDir, r.Group, r.ID, pageName), maxPage)
}
