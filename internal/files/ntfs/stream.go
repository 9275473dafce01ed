package ntfs

import (
	"io"
	"sort"

	"github.com/rephub/rephub/internal/files/tree"
)

const maxRuns = 4 << 20 // of a stream; bounds memory

// run is clusters that lie together; at is -1 where there are none.
type run struct{ from, n, at int64 }

// stream is the content of an attribute.
type stream struct {
	f           *FS
	size, valid int64
	value       []byte // when it lies in its record
	runs        []run
	unit        int64 // clusters that are compressed together; 0 without
	encrypted   bool

	unitAt int64 // of unitIs, in clusters
	unitIs []byte
}

// clusters is how many the runs cover.
func (s *stream) clusters() int64 {
	if len(s.runs) == 0 {
		return 0
	}
	l := s.runs[len(s.runs)-1]
	return l.from + l.n
}

// addRuns reads pairs of lengths and offsets.
func (s *stream) addRuns(p []byte) error {
	at := int64(0)
	for len(p) > 0 && p[0] != 0 {
		lens, offs := int(p[0]&15), int(p[0]>>4)
		if lens == 0 || lens > 8 || offs > 8 || 1+lens+offs > len(p) {
			return tree.Damaged("a map of clusters")
		}
		n, off := signed(p[1:1+lens]), signed(p[1+lens:1+lens+offs])
		p = p[1+lens+offs:]
		from := s.clusters()
		if n <= 0 || n > 1<<50 || from > 1<<50 || len(s.runs) >= maxRuns {
			return tree.Damaged("a map of clusters")
		}
		r := run{from: from, n: n, at: -1}
		if offs > 0 {
			at += off
			if all := s.f.dev.Size() / s.f.cluster; at < 0 || at > all || n > all-at {
				return tree.Damaged("clusters %d to %d of %d", at, at+n, all)
			}
			r.at = at
		}
		s.runs = append(s.runs, r)
	}
	return nil
}

func signed(p []byte) (v int64) {
	for i := len(p) - 1; i >= 0; i-- {
		if i == len(p)-1 {
			v = int64(int8(p[i]))
			continue
		}
		v = v<<8 | int64(p[i])
	}
	return v
}

// find gives the run that holds a cluster.
func (s *stream) find(c int64) (run, error) {
	i := sort.Search(len(s.runs), func(i int) bool { return s.runs[i].from+s.runs[i].n > c })
	if i == len(s.runs) {
		return run{}, tree.Damaged("a stream ends before its cluster %d", c)
	}
	return s.runs[i], nil
}

// ReadAt implements io.ReaderAt.
func (s *stream) ReadAt(p []byte, off int64) (int, error) {
	switch {
	case s.encrypted:
		return 0, tree.Unsupported("it is encrypted by the guest")
	case s.runs == nil:
		if off >= int64(len(s.value)) {
			return 0, io.EOF
		}
		n := copy(p, s.value[off:])
		if n < len(p) {
			return n, io.EOF
		}
		return n, nil
	}
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at >= s.size {
			return n, io.EOF
		}
		part := p[n:]
		part = part[:min(int64(len(part)), s.size-at)]
		switch {
		case at >= s.valid:
			clear(part)
		case s.unit > 0:
			part = part[:min(int64(len(part)), s.valid-at)]
			u, err := s.readUnit(at)
			if err != nil {
				return n, err
			}
			part = part[:copy(part, u)]
		default:
			part = part[:min(int64(len(part)), s.valid-at)]
			var err error
			if part, err = s.plain(part, at); err != nil {
				return n, err
			}
		}
		n += len(part)
	}
	return n, nil
}

// plain reads from one run, and says how much.
func (s *stream) plain(p []byte, at int64) ([]byte, error) {
	r, err := s.find(at / s.f.cluster)
	if err != nil {
		return nil, err
	}
	within := at - r.from*s.f.cluster
	p = p[:min(int64(len(p)), r.n*s.f.cluster-within)]
	if r.at < 0 {
		clear(p)
		return p, nil
	}
	return p, tree.ReadFull(s.f.dev, p, r.at*s.f.cluster+within)
}

// readUnit gives the bytes from at to the end of its compressed unit.
func (s *stream) readUnit(at int64) ([]byte, error) {
	size := s.unit * s.f.cluster
	first := at / size * s.unit
	if s.unitIs == nil || s.unitAt != first {
		u, err := s.inflate(first, size)
		if err != nil {
			return nil, err
		}
		s.unitAt, s.unitIs = first, u
	}
	return s.unitIs[at%size:], nil
}

// inflate reads a unit: one without clusters is zeroes, a full one was not worth
// compressing, the others are compressed.
func (s *stream) inflate(first, size int64) ([]byte, error) {
	if size > 4<<20 {
		return nil, tree.Damaged("a compressed unit of %d bytes", size)
	}
	packed := make([]byte, 0, size)
	for c := first; c < first+s.unit; {
		r, err := s.find(c)
		if err != nil {
			return nil, err
		}
		n := min(first+s.unit, r.from+r.n) - c
		if r.at >= 0 {
			p := make([]byte, n*s.f.cluster)
			if err := tree.ReadFull(s.f.dev, p, (r.at+c-r.from)*s.f.cluster); err != nil {
				return nil, err
			}
			packed = append(packed, p...)
		}
		c += n
	}
	switch int64(len(packed)) {
	case 0:
		return make([]byte, size), nil
	case size:
		return packed, nil
	}
	return unpack(packed, int(size))
}

// unpack decompresses LZNT1 ([MS-XCA] 2.5) to size bytes; what is missing at
// the end is zeroes.
func unpack(p []byte, size int) ([]byte, error) {
	const chunk = 4096
	bad := tree.Damaged("compressed data")
	out := make([]byte, 0, size)
	for len(p) >= 2 && len(out) < size {
		h := le.Uint16(p)
		if h == 0 {
			break
		}
		n := int(h&0xfff) + 1
		if n > len(p)-2 {
			return nil, bad
		}
		q := p[2 : 2+n]
		p = p[2+n:]
		start := len(out)
		if h&0x8000 == 0 {
			out = append(out, q...)
		}
		for h&0x8000 != 0 && len(q) > 0 {
			flags := q[0]
			q = q[1:]
			for bit := 0; bit < 8 && len(q) > 0; bit++ {
				if flags>>bit&1 == 0 {
					out = append(out, q[0])
					q = q[1:]
					continue
				}
				if len(q) < 2 {
					return nil, bad
				}
				v, pos := int(le.Uint16(q)), len(out)-start
				q = q[2:]
				shift := 12 // bits of the length; the farther in, the fewer
				for i := pos - 1; i >= 0x10; i >>= 1 {
					shift--
				}
				back, length := v>>shift+1, v&(1<<shift-1)+3
				if back > pos || pos+length > chunk {
					return nil, bad
				}
				for range length {
					out = append(out, out[len(out)-back])
				}
			}
		}
		if len(out)-start > chunk {
			return nil, bad
		}
		if len(out)-start < chunk && len(out) < size { // chunks begin at multiples
			out = append(out, make([]byte, min(chunk-(len(out)-start), size-len(out)))...)
		}
	}
	if len(out) > size {
		return nil, bad
	}
	return append(out, make([]byte, size-len(out))...), nil
}
