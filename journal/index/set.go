package index

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/rephub/rephub/internal/vfs"
)

// Set is all indexes of a journal: those in memory, newest first, and the
// files. Lookups take the current version of the set with two atomic
// operations and never wait; changes make a new version. A file that a change
// removes loses its name at once and is unmapped when the last lookup that
// uses it has returned.
type Set struct {
	fs      vfs.FS
	dir     string
	current atomic.Pointer[setVersion]
	merging sync.Mutex // one merge at a time; held over I/O, taken by nobody else
	mu      struct {
		sync.Mutex // changes of the version; not held over reads or writes of files
		dropped    uint32
		repairs    []error
	}
}

// setVersion is immutable but for its references: one for being current and
// one per lookup.
type setVersion struct {
	mems  []*Mem  // newest first
	files []*file // newest first
	refs  atomic.Int64
	freed atomic.Bool
}

// OpenSet opens the index files in dir, which exists; other files there are
// left alone. Files that are damaged, unfinished or covered by a merged one
// are removed: see Repairs, and Segments for what is missing then.
func OpenSet(fs vfs.FS, dir string) (*Set, error) {
	s := &Set{fs: fs, dir: dir}
	files, err := s.load()
	if err != nil {
		for _, f := range files {
			f.mapping.Close()
		}
		return nil, err
	}
	s.publish(&setVersion{files: files})
	return s, nil
}

// load opens the files of the directory, newest first.
func (s *Set) load() (files []*file, err error) {
	entries, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list index files: %w", err)
	}
	for _, e := range entries {
		name := filepath.Join(s.dir, e.Name())
		if strings.HasSuffix(e.Name(), suffix+vfs.TempSuffix) {
			s.discard(name, nil)
			continue
		}
		first, last, ok := parseName(e.Name())
		if !ok {
			continue
		}
		f, err := openFile(s.fs, name)
		if err == nil && (f.h.firstSeg != first || f.h.lastSeg != last) {
			f.mapping.Close()
			err = &CorruptError{File: name, Off: 16, Why: "segments differ from the file's name"}
		}
		if errors.Is(err, ErrCorrupt) {
			s.discard(name, err)
			continue
		}
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return s.dropCovered(files), nil
}

// dropCovered removes files whose segments another one has: a merge was
// interrupted between its last two steps. The rest comes back newest first.
func (s *Set) dropCovered(files []*file) []*file {
	slices.SortFunc(files, func(a, b *file) int {
		return int(int64(b.h.lastSeg-b.h.firstSeg) - int64(a.h.lastSeg-a.h.firstSeg))
	})
	var kept []*file
	for _, f := range files {
		if slices.ContainsFunc(kept, func(k *file) bool { return k.h.firstSeg <= f.h.lastSeg && f.h.firstSeg <= k.h.lastSeg }) {
			f.mapping.Close()
			s.discard(f.name, nil)
			continue
		}
		kept = append(kept, f)
	}
	sortFiles(kept)
	return kept
}

func sortFiles(files []*file) {
	slices.SortFunc(files, func(a, b *file) int { return int(int64(b.h.firstSeg) - int64(a.h.firstSeg)) })
}

// discard removes a useless file. It does not matter if that fails: the file
// is found again at the next open.
func (s *Set) discard(name string, why error) {
	if err := s.fs.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) && why == nil {
		why = fmt.Errorf("remove index file: %w", err)
	}
	if why != nil {
		s.mu.repairs = append(s.mu.repairs, why)
	}
}

// Repairs tells what was found damaged when the set was opened, and removed.
func (s *Set) Repairs() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mu.repairs)
}

// publish makes v current and lets go of the version before. Call it with mu
// held, or before the set is shared.
func (s *Set) publish(v *setVersion) {
	for _, f := range v.files {
		f.refs.Add(1)
	}
	v.refs.Store(1)
	if old := s.current.Swap(v); old != nil {
		old.release()
	}
}

// acquire takes the current version; release it after use. nil: closed.
func (s *Set) acquire() *setVersion {
	for {
		v := s.current.Load()
		if v == nil {
			return nil
		}
		v.refs.Add(1)
		// Current still, after our reference was counted: it cannot have been
		// freed. Otherwise it may have been, and must not be used.
		if s.current.Load() == v {
			return v
		}
		v.release()
	}
}

// release gives back a reference. The last one unmaps the files that no other
// version holds; a late pair of acquire and release can reach zero again.
func (v *setVersion) release() {
	if v.refs.Add(-1) > 0 || v.freed.Swap(true) {
		return
	}
	for _, f := range v.files {
		if f.refs.Add(-1) == 0 {
			f.mapping.Close()
		}
	}
}

// SetActive makes m the newest source. The ones before it stay in use until
// they are installed.
func (s *Set) SetActive(m *Mem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.current.Load()
	if v == nil || slices.Contains(v.mems, m) {
		return
	}
	s.publish(&setVersion{mems: slices.Concat([]*Mem{m}, v.mems), files: v.files})
}

// Segments returns the numbers of the segments that index files cover,
// ascending. After a damaged file was removed its segments are missing: index
// them again and Install them, before anything is looked up.
func (s *Set) Segments() []uint32 {
	v := s.acquire()
	if v == nil {
		return nil
	}
	defer v.release()
	s.mu.Lock()
	dropped := s.mu.dropped
	s.mu.Unlock()
	var segs []uint32
	for _, f := range slices.Backward(v.files) {
		for n := uint64(max(f.h.firstSeg, dropped+1)); n <= uint64(f.h.lastSeg); n++ {
			segs = append(segs, uint32(n))
		}
	}
	return segs
}

// Stats describes a set.
type Stats struct {
	Files   int
	Bytes   int64 // of the files
	Records int64 // in files
	Active  int   // records in memory
}

// Stats counts files and records.
func (s *Set) Stats() (st Stats) {
	v := s.acquire()
	if v == nil {
		return st
	}
	defer v.release()
	for _, f := range v.files {
		st.Files++
		st.Bytes += int64(len(f.data))
		st.Records += int64(f.h.records)
	}
	for _, m := range v.mems {
		st.Active += m.Len()
	}
	return st
}

// Verify reads all files and checks every block of them.
func (s *Set) Verify() error {
	v := s.acquire()
	if v == nil {
		return ErrClosed
	}
	defer v.release()
	var errs []error
	for _, f := range v.files {
		errs = append(errs, guard(&f.name, f.verify))
	}
	return errors.Join(errs...)
}

// Close ends the set. Lookups under way finish; later ones get ErrClosed.
// Files found damaged meanwhile are removed, so that the next open rebuilds
// them.
func (s *Set) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.current.Swap(nil)
	if v == nil {
		return nil
	}
	for _, f := range v.files {
		if f.damaged.Load() {
			s.discard(f.name, nil)
		}
	}
	v.release()
	return nil
}
