package ntfs

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/rephub/rephub/internal/files/tree"
)

// Flags of attributes.
const (
	flagCompressed = 0x00ff
	flagEncrypted  = 0x4000
)

const (
	maxList  = 1 << 20 // bytes of a list of attributes
	maxParts = 1 << 16 // attributes of a file
)

// attr is an attribute, or a part of one that did not fit into one record.
type attr struct {
	kind     uint32
	name     string
	flags    uint16
	value    []byte // when resident
	resident bool
	first    int64 // cluster of the stream that this part begins with
	unit     uint8 // log2 of the clusters that are compressed together
	size     int64 // of the first part: bytes
	valid    int64 // bytes that were ever written; what follows reads as zeroes
	pairs    []byte
}

// file is a record of the table with all of its attributes.
type file struct {
	f     *FS
	n     int64
	dir   bool
	attrs []*attr
}

// raw reads one record.
func (f *FS) raw(n int64) ([]byte, error) {
	if n < 0 || n >= f.table.size/f.record {
		return nil, tree.Damaged("record %d of %d", n, f.table.size/f.record)
	}
	p := make([]byte, f.record)
	if _, err := f.table.ReadAt(p, n*f.record); err != nil {
		return nil, fmt.Errorf("record %d: %w", n, err)
	}
	if string(p[:4]) != "FILE" {
		return nil, tree.Damaged("record %d", n)
	}
	if err := restore(p, fmt.Sprintf("record %d", n)); err != nil {
		return nil, err
	}
	if le.Uint16(p[22:])&1 == 0 {
		return nil, tree.Damaged("record %d is not in use", n)
	}
	return p, nil
}

// attributes reads those of one record.
func attributes(p []byte, n int64) (all []*attr, err error) {
	bad := tree.Damaged("attributes of record %d", n)
	for at := int(le.Uint16(p[20:])); ; {
		if at < 24 || at+8 > len(p) {
			return nil, bad
		}
		if le.Uint32(p[at:]) == attrEnd {
			return all, nil
		}
		length := int64(le.Uint32(p[at+4:]))
		if length < 24 || length > int64(len(p)-at) {
			return nil, bad
		}
		q := p[at : at+int(length)]
		at += int(length)
		a := &attr{kind: le.Uint32(q), flags: le.Uint16(q[12:]), resident: q[8] == 0}
		nameAt, nameLen := int(le.Uint16(q[10:])), int(q[9])*2
		if nameAt+nameLen > len(q) {
			return nil, bad
		}
		a.name = text(q[nameAt : nameAt+nameLen])
		if a.resident {
			from, size := int64(le.Uint16(q[20:])), int64(le.Uint32(q[16:]))
			if from+size > length {
				return nil, bad
			}
			a.value = q[from : from+size]
			a.size = size
			all = append(all, a)
			continue
		}
		if length < 64 || int64(le.Uint16(q[32:])) > length {
			return nil, bad
		}
		a.first, a.unit = int64(le.Uint64(q[16:])), q[34]
		a.size, a.valid = int64(le.Uint64(q[48:])), int64(le.Uint64(q[56:]))
		a.pairs = q[le.Uint16(q[32:]):]
		if a.first < 0 || a.unit > 8 || a.first == 0 && (a.size < 0 || a.valid < 0) {
			return nil, bad
		}
		all = append(all, a)
	}
}

// open reads a file with the records that it spills over to.
func (f *FS) open(n int64) (*file, error) {
	p, err := f.raw(n)
	if err != nil {
		return nil, err
	}
	o := &file{f: f, n: n, dir: le.Uint16(p[22:])&2 != 0}
	if o.attrs, err = attributes(p, n); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(o.attrs, func(a *attr) bool { return a.kind == attrList })
	if i < 0 || n == recordMFT && f.table.size == f.record {
		return o, nil
	}
	s, err := o.joined(o.attrs[i : i+1])
	if err != nil {
		return nil, err
	}
	if s.size > maxList {
		return nil, tree.Damaged("record %d has a list of %d bytes", n, s.size)
	}
	list := make([]byte, s.size)
	if _, err := s.ReadAt(list, 0); err != nil && err != io.EOF {
		return nil, err
	}
	return o, o.gather(list)
}

// gather adds the attributes that a list says are in other records.
func (o *file) gather(list []byte) error {
	seen := map[int64]bool{o.n: true}
	for len(list) >= 26 {
		length := int(le.Uint16(list[4:]))
		if length < 26 || length > len(list) {
			return tree.Damaged("the list of attributes of record %d", o.n)
		}
		n := int64(le.Uint64(list[16:]) & (1<<48 - 1))
		list = list[length:]
		if seen[n] {
			continue
		}
		seen[n] = true
		p, err := o.f.raw(n)
		if err != nil {
			return err
		}
		if base := int64(le.Uint64(p[32:]) & (1<<48 - 1)); base != o.n {
			return tree.Damaged("record %d belongs to %d and not to %d", n, base, o.n)
		}
		more, err := attributes(p, n)
		if err != nil {
			return err
		}
		if o.attrs = append(o.attrs, more...); len(o.attrs) > maxParts {
			return tree.Damaged("record %d has too many attributes", o.n)
		}
	}
	return nil
}

// stream is the content of an attribute; errNone when the file has none.
func (o *file) stream(kind uint32, name string) (*stream, error) {
	var parts []*attr
	for _, a := range o.attrs {
		if a.kind == kind && a.name == name {
			parts = append(parts, a)
		}
	}
	if len(parts) == 0 {
		return nil, errNone
	}
	return o.joined(parts)
}

var errNone = tree.Damaged("an attribute is missing")

// joined makes one stream of its parts.
func (o *file) joined(parts []*attr) (*stream, error) {
	slices.SortStableFunc(parts, func(a, b *attr) int { return cmp.Compare(a.first, b.first) })
	head := parts[0]
	s := &stream{f: o.f, size: head.size, valid: head.valid}
	if head.resident {
		if len(parts) > 1 {
			return nil, tree.Damaged("record %d has an attribute twice", o.n)
		}
		s.value = head.value
		return s, nil
	}
	if head.flags&flagCompressed != 0 {
		s.unit = int64(1) << head.unit
	}
	s.encrypted = head.flags&flagEncrypted != 0
	for _, a := range parts {
		if a.resident || a.first != s.clusters() {
			return nil, tree.Damaged("record %d lacks clusters from %d on", o.n, s.clusters())
		}
		if err := s.addRuns(a.pairs); err != nil {
			return nil, fmt.Errorf("record %d: %w", o.n, err)
		}
	}
	if s.size > s.clusters()*o.f.cluster {
		return nil, tree.Damaged("record %d has %d bytes in %d clusters", o.n, s.size, s.clusters())
	}
	return s, nil
}
