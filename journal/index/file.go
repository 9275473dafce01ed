package index

import (
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/rephub/rephub/internal/vfs"
)

// file is an open index file, mapped. It never changes; refs counts the
// versions of the set that hold it, and the last one to go unmaps it.
type file struct {
	h       header
	name    string // path
	data    []byte
	mapping vfs.Mapping
	sects   []section
	crcs    []byte
	checked []atomic.Uint32 // bit per block
	refs    atomic.Int32
	damaged atomic.Bool
}

// fileName is the name of the index of the segments first … last.
func fileName(dir string, first, last uint32) string {
	return filepath.Join(dir, fmt.Sprintf("%012d-%012d%s", first, last, suffix))
}

const suffix = ".rhi"

// parseName reads a base name.
func parseName(base string) (first, last uint32, ok bool) {
	var rest string
	n, err := fmt.Sscanf(base, "%012d-%012d%s", &first, &last, &rest)
	ok = err == nil && n == 3 && base == filepath.Base(fileName("", first, last))
	return first, last, ok
}

func openFile(fs vfs.FS, name string) (*file, error) {
	f, err := fs.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open index file: %w", err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("stat index file: %w", err)
	}
	if size < blockSize {
		return nil, &CorruptError{File: name, Why: "shorter than a header"}
	}
	m, err := f.Map(0, size)
	if err != nil {
		return nil, fmt.Errorf("map index file %s: %w", name, err)
	}
	x := &file{name: name, data: m.Bytes(), mapping: m}
	if err := guard(&name, x.decode); err != nil {
		m.Close()
		return nil, err
	}
	return x, nil
}

// decode reads header and trailer.
func (f *file) decode() error {
	h, why := decodeHeader(f.data, int64(len(f.data)))
	if why != "" {
		return &CorruptError{File: f.name, Why: why}
	}
	trailer := f.data[h.trailerOff:]
	if crc32.Checksum(trailer, castagnoli) != h.trailerCRC {
		return &CorruptError{File: f.name, Off: int64(h.trailerOff), Why: "trailer checksum does not match"}
	}
	f.h = h
	f.sects = make([]section, h.sections)
	var recs, dir uint64
	for i := range f.sects {
		s := decodeSection(trailer[i*sectionSize:])
		ok := s.level < levels && s.minUnit <= s.maxUnit && s.maxUnit <= 1<<63>>shifts[s.level%levels] &&
			s.shift < 64 && s.first == recs && s.count > 0 && s.count <= h.records-recs &&
			s.dir == dir && s.buckets() < h.dirLen-dir
		if ok && i > 0 {
			p := &f.sects[i-1]
			ok = p.vol < s.vol || p.vol == s.vol && p.level < s.level
		}
		if !ok {
			return &CorruptError{File: f.name, Off: int64(h.trailerOff) + int64(i*sectionSize), Why: "section table is inconsistent"}
		}
		recs += s.count
		dir += s.buckets() + 1
		f.sects[i] = s
	}
	if recs != h.records || dir != h.dirLen || h.words == 0 {
		return &CorruptError{File: f.name, Why: "sections do not cover the file"}
	}
	f.crcs = trailer[int(h.sections)*sectionSize:]
	f.checked = make([]atomic.Uint32, (h.trailerOff>>blockShift+31)/32)
	return nil
}

// touch returns the file's bytes from off on, the first within a block that
// has been checked. off lies between header and trailer.
func (f *file) touch(off uint64) ([]byte, error) {
	b := off >> blockShift
	if f.checked[b>>5].Load()&(1<<(b&31)) == 0 {
		if err := f.check(b); err != nil {
			return nil, err
		}
	}
	return f.data[off:], nil
}

func (f *file) check(b uint64) error {
	p := f.data[b<<blockShift : (b+1)<<blockShift]
	if crc32.Checksum(p, castagnoli) != le.Uint32(f.crcs[4*(b-1):]) {
		return f.corrupt(b<<blockShift, "block checksum does not match")
	}
	f.checked[b>>5].Or(1 << (b & 31))
	return nil
}

func (f *file) corrupt(off uint64, why string) error {
	f.damaged.Store(true)
	return &CorruptError{File: f.name, Off: int64(off), Why: why}
}

// verify checks every block.
func (f *file) verify() error {
	for b := uint64(1); b < f.h.trailerOff>>blockShift; b++ {
		if _, err := f.touch(b << blockShift); err != nil {
			return err
		}
	}
	return nil
}

// section finds the records of a volume at a level, nil if there are none.
func (f *file) section(vol uint32, level int) *section {
	for i := range f.sects {
		s := &f.sects[i]
		if s.vol == vol && int(s.level) == level {
			return s
		}
	}
	return nil
}

// mayHold asks the filter about the units first … last.
func (f *file) mayHold(s *section, first, last uint64) (bool, error) {
	step := uint64(1)
	if s.level == 0 {
		step = 1 << (shifts[1] - shifts[0])
		first, last = first&^(step-1), last&^(step-1)
	}
	if (last-first)/step >= 4 {
		return true, nil
	}
	for u := first; ; u += step {
		word, mask := filterPlace(filterKey(s.vol, int(s.level), u), f.h.words)
		p, err := f.touch(f.h.filterOff + word<<3)
		if err != nil {
			return false, err
		}
		if le.Uint64(p)&mask == mask {
			return true, nil
		}
		if u == last {
			return false, nil
		}
	}
}

// key reads the sort key of record i of the section.
func (f *file) key(s *section, i uint64) (unit, seq uint64, err error) {
	p, err := f.touch(blockSize + (s.first+i)<<recordShift)
	if err != nil {
		return 0, 0, err
	}
	return le.Uint64(p), le.Uint64(p[8:]), nil
}

// record reads record i of the section, whose block has been checked.
func (f *file) record(s *section, i uint64) record {
	return decodeRecord(f.data[blockSize+(s.first+i)<<recordShift:])
}

// bucket returns the records among which all those of the unit are.
func (f *file) bucket(s *section, unit uint64) (from, to uint64, err error) {
	at := f.h.dirOff + (s.dir+(unit-s.minUnit)>>s.shift)<<2
	p, err := f.touch(at)
	if err != nil {
		return 0, 0, err
	}
	from = uint64(le.Uint32(p))
	if p, err = f.touch(at + 4); err != nil {
		return 0, 0, err
	}
	to = uint64(le.Uint32(p))
	if from > to || to > s.count {
		return 0, 0, f.corrupt(at, "directory goes backwards")
	}
	return from, to, nil
}

// search returns the first record in [from, to) whose key is above (unit, seq).
func (f *file) search(s *section, from, to, unit, seq uint64) (uint64, error) {
	for from < to {
		mid := (from + to) / 2
		u, q, err := f.key(s, mid)
		if err != nil {
			return 0, err
		}
		if u < unit || u == unit && q <= seq {
			from = mid + 1
		} else {
			to = mid
		}
	}
	return from, nil
}

// gallop is search from record i on, quick when the answer is near.
func (f *file) gallop(s *section, i, unit, seq uint64) (uint64, error) {
	for step := uint64(1); ; step *= 2 {
		if i >= s.count {
			return s.count, nil
		}
		probe := min(i+step, s.count) - 1
		u, q, err := f.key(s, probe)
		if err != nil {
			return 0, err
		}
		if u > unit || u == unit && q > seq {
			return f.search(s, i, probe, unit, seq)
		}
		i = probe + 1
	}
}
