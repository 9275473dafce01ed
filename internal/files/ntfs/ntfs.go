// Package ntfs reads NTFS. It follows the rules of a file system and not those
// of forensics: what is not reachable is not shown, and what is missing is an
// error and not zeroes. The log of NTFS ($LogFile) is not replayed; Info tells
// when it would have to be.
package ntfs

import (
	"encoding/binary"
	"fmt"
	"unicode/utf16"

	"github.com/rephub/rephub/internal/files/tree"
)

var le = binary.LittleEndian

// Records of the master file table that are known by their numbers.
const (
	recordMFT    = 0
	recordLog    = 2
	recordVolume = 3
	recordRoot   = 5
	firstUser    = 16
)

// Types of attributes.
const (
	attrStandard   = 0x10
	attrList       = 0x20
	attrVolumeName = 0x60
	attrData       = 0x80
	attrIndexRoot  = 0x90
	attrIndex      = 0xa0
	attrReparse    = 0xc0
	attrEnd        = 0xffffffff
)

// FS is an open file system.
type FS struct {
	dev     tree.Device
	info    tree.Info
	cluster int64
	record  int64
	table   *stream // the master file table
}

// Probe says whether dev may hold an NTFS file system.
func Probe(dev tree.Device) bool {
	p := make([]byte, 512)
	return tree.ReadFull(dev, p, 0) == nil && string(p[3:11]) == "NTFS    "
}

// Open reads the boot sector and finds the master file table.
func Open(dev tree.Device) (*FS, error) {
	p := make([]byte, 512)
	if err := tree.ReadFull(dev, p, 0); err != nil {
		return nil, err
	}
	sector, per := int64(le.Uint16(p[11:])), int64(p[13])
	if per > 0x80 {
		per = 1 << (256 - per)
	}
	f := &FS{dev: dev, cluster: sector * per}
	if string(p[3:11]) != "NTFS    " || sector < 256 || sector > 4096 || sector&(sector-1) != 0 || per == 0 || per&(per-1) != 0 ||
		f.cluster > 2<<20 {
		return nil, tree.Damaged("the boot sector")
	}
	if n := int8(p[64]); n > 0 {
		f.record = int64(n) * f.cluster
	} else {
		f.record = 1 << min(uint(-int(n)), 20)
	}
	sectors, mft := int64(le.Uint64(p[40:])), int64(le.Uint64(p[48:]))
	if f.record < 512 || f.record > 64<<10 || sectors <= 0 || sectors > dev.Size()/sector || mft <= 0 || mft >= dev.Size()/f.cluster {
		return nil, tree.Damaged("it has %d sectors of %d bytes on a device of %d bytes", sectors, sector, dev.Size())
	}
	// The table's own record tells where its records are; the first of them is
	// enough to read more of it.
	f.table = &stream{f: f, size: f.record, valid: f.record, runs: []run{{n: (f.record + f.cluster - 1) / f.cluster, at: mft}}}
	first, err := f.open(recordMFT)
	if err != nil {
		return nil, fmt.Errorf("master file table: %w", err)
	}
	for _, a := range first.attrs {
		if a.kind == attrData && a.name == "" && a.first == 0 {
			if f.table, err = first.joined([]*attr{a}); err != nil {
				return nil, fmt.Errorf("master file table: %w", err)
			}
		}
	}
	if first, err = f.open(recordMFT); err == nil { // now with those of other records
		f.table, err = first.stream(attrData, "")
	}
	if err != nil {
		return nil, fmt.Errorf("master file table: %w", err)
	}
	f.info = tree.Info{Type: "ntfs", UUID: fmt.Sprintf("%016X", le.Uint64(p[72:]))}
	f.describe()
	return f, nil
}

// describe reads what is nice to know. Damage there is found by who looks there.
func (f *FS) describe() {
	if v, err := f.open(recordVolume); err == nil {
		if s, err := v.stream(attrVolumeName, ""); err == nil {
			p := make([]byte, min(s.size, 256)&^1)
			if _, err := s.ReadAt(p, 0); err == nil {
				f.info.Label = text(p)
			}
		}
	}
	if !f.clean() {
		f.info.Notes = append(f.info.Notes,
			"this NTFS was in use at the point and its log is not replayed: what was changed in the last seconds before may be missing or older")
	}
}

// clean says whether the log holds nothing that is not in its place.
func (f *FS) clean() bool {
	l, err := f.open(recordLog)
	if err != nil {
		return false
	}
	s, err := l.stream(attrData, "")
	if err != nil {
		return false
	}
	p := make([]byte, 512)
	if _, err := s.ReadAt(p, 0); err != nil {
		return false
	}
	if le.Uint32(p) == 0xffffffff { // emptied by a driver that writes no log
		return true
	}
	at := int(le.Uint16(p[24:]))
	if string(p[:4]) != "RSTR" || at+16 > len(p) {
		return false
	}
	return le.Uint16(p[at+14:])&2 != 0 || le.Uint16(p[at+12:]) == 0xffff
}

// Info implements tree.FS.
func (f *FS) Info() tree.Info { return f.info }

// Root implements tree.FS.
func (f *FS) Root() (tree.Node, error) { return f.node(recordRoot, 0) }

// text decodes UTF-16.
func text(p []byte) string {
	u := make([]uint16, len(p)/2)
	for i := range u {
		u[i] = le.Uint16(p[2*i:])
	}
	return string(utf16.Decode(u))
}

// restore puts the last bytes of each sector back, which were taken out so that
// a torn write shows.
func restore(p []byte, what string) error {
	const sector = 512
	at, n := int(le.Uint16(p[4:])), int(le.Uint16(p[6:]))
	if n == 0 || at+2*n > len(p) || (n-1)*sector > len(p) {
		return tree.Damaged("%s", what)
	}
	for i := 1; i < n; i++ {
		end := p[i*sector-2 : i*sector]
		if end[0] != p[at] || end[1] != p[at+1] {
			return tree.Damaged("%s was written in part", what)
		}
		copy(end, p[at+2*i:at+2*i+2])
	}
	return nil
}
