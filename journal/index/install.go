package index

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/rephub/rephub/internal/vfs"
)

// Install writes the index file of segment seg from m, durably, and uses it
// in m's place. m is complete: nothing is added to it any more, and all its
// extents are in that segment. It can be repeated after an error. A segment
// that has an index file already is left as it is. Segments may be installed
// in any order; lookups are right once all are.
func (s *Set) Install(seg uint32, m *Mem) error {
	if s.covers(seg) {
		s.change(func(v *setVersion) { v.dropMem(m) })
		return nil
	}
	f, err := s.write(seg, seg, 0, uint64(m.Len()), m.writeTo)
	if err != nil {
		return fmt.Errorf("index segment %d: %w", seg, err)
	}
	return s.change(func(v *setVersion) {
		v.dropMem(m)
		v.files = append(v.files, f)
		sortFiles(v.files)
	})
}

func (s *Set) covers(seg uint32) bool {
	v := s.acquire()
	if v == nil {
		return false
	}
	defer v.release()
	return slices.ContainsFunc(v.files, func(f *file) bool { return f.h.firstSeg <= seg && seg <= f.h.lastSeg })
}

func (v *setVersion) dropMem(m *Mem) {
	v.mems = slices.DeleteFunc(v.mems, func(o *Mem) bool { return o == m })
}

// change publishes a new version, made from a copy of the current one.
func (s *Set) change(edit func(*setVersion)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.current.Load()
	if v == nil {
		return ErrClosed
	}
	n := &setVersion{mems: slices.Clone(v.mems), files: slices.Clone(v.files)}
	edit(n)
	s.publish(n)
	return nil
}

// write makes an index file and opens it. Its name appears when it is whole
// and durable, and is durable itself when write returns.
func (s *Set) write(first, last, tier uint32, records uint64, fill func(*writer) error) (*file, error) {
	name := fileName(s.dir, first, last)
	temp := name + vfs.TempSuffix
	w, err := createWriter(s.fs, temp, first, last, tier, records)
	if err != nil {
		return nil, err
	}
	if err = fill(w); err != nil {
		w.abort()
	} else {
		err = w.finish()
	}
	if err == nil {
		if err = s.fs.Rename(temp, name); err != nil {
			err = fmt.Errorf("name index file: %w", err)
		}
	}
	if err != nil {
		s.fs.Remove(temp)
		return nil, err
	}
	if err := s.fs.SyncDir(s.dir); err != nil {
		return nil, fmt.Errorf("sync index directory: %w", err)
	}
	return openFile(s.fs, name)
}

// sortKey is what the records of a Mem are sorted by.
type sortKey struct {
	section uint64 // volume and level
	unit    uint64
	number  uint32 // of the record: the order added
}

// sortKeys returns the keys of all records in file order.
func (m *Mem) sortKeys() []sortKey {
	keys := make([]sortKey, m.Len())
	for i := range keys {
		r := m.record(uint32(i + 1))
		keys[i] = sortKey{uint64(r.vol)<<8 | uint64(r.level), r.unit, uint32(i + 1)}
	}
	slices.SortFunc(keys, func(a, b sortKey) int {
		switch {
		case a.section != b.section:
			return cmp.Compare(a.section, b.section)
		case a.unit != b.unit:
			return cmp.Compare(a.unit, b.unit)
		}
		return cmp.Compare(a.number, b.number)
	})
	return keys
}

// writeTo writes the records in file order.
func (m *Mem) writeTo(w *writer) error {
	keys := m.sortKeys()
	for from := 0; from < len(keys); {
		to := from
		for to < len(keys) && keys[to].section == keys[from].section {
			to++
		}
		r := m.record(keys[from].number)
		w.begin(r.vol, int(r.level), r.unit, keys[to-1].unit, uint64(to-from))
		for _, k := range keys[from:to] {
			r := m.record(k.number)
			w.add(&record{unit: r.unit, seq: r.seq, pos: r.pos, seg: r.seg, lo: r.lo, hi: r.hi, zero: r.zero})
		}
		from = to
	}
	return w.err
}

// DropThrough forgets the segments up to and including seg: files that hold
// nothing else are removed, merged files that also hold later segments stay
// until the next merge. Only lookups whose floor is at or above the last seq
// of those segments are right afterwards. Call it after opening, too, with the
// number before the oldest segment kept.
func (s *Set) DropThrough(seg uint32) error {
	var gone []string
	s.mu.Lock()
	s.mu.dropped = max(s.mu.dropped, seg)
	s.mu.Unlock()
	err := s.change(func(v *setVersion) {
		v.files = slices.DeleteFunc(v.files, func(f *file) bool {
			if f.h.lastSeg <= seg {
				gone = append(gone, f.name)
				return true
			}
			return false
		})
	})
	return errors.Join(err, s.remove(gone))
}

// remove unlinks files that no version names any more.
func (s *Set) remove(names []string) error {
	var errs []error
	for _, name := range names {
		if err := s.fs.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove index file: %w", err))
		}
	}
	if len(names) > 0 {
		if err := s.fs.SyncDir(s.dir); err != nil {
			errs = append(errs, fmt.Errorf("sync index directory: %w", err))
		}
	}
	return errors.Join(errs...)
}
