// Package fat reads FAT12, FAT16 and FAT32. It reads what others refuse: copies
// of the table that differ, as a crash leaves them, and chains that are shorter
// than their file, which are told as damage and not read as zeroes.
package fat

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/rephub/rephub/internal/files/tree"
)

var le = binary.LittleEndian

// FS is an open file system. Offsets are in bytes on the device.
type FS struct {
	dev      tree.Device
	info     tree.Info
	bits     int // 12, 16 or 32
	cluster  int64
	clusters uint32 // the highest number of a cluster
	fat      int64
	fatSize  int64
	root     int64  // of FAT12 and FAT16
	rootSize int64  // bytes
	rootAt   uint32 // cluster, of FAT32
	data     int64  // cluster 2
}

// Probe says whether dev may hold a FAT file system.
func Probe(dev tree.Device) bool {
	p := make([]byte, 512)
	if tree.ReadFull(dev, p, 0) != nil || p[510] != 0x55 || p[511] != 0xaa || p[0] != 0xeb && p[0] != 0xe9 {
		return false
	}
	return string(p[82:87]) == "FAT32" || string(p[54:57]) == "FAT"
}

// Open reads the boot sector.
func Open(dev tree.Device) (*FS, error) {
	p := make([]byte, 512)
	if err := tree.ReadFull(dev, p, 0); err != nil {
		return nil, err
	}
	sector := int64(le.Uint16(p[11:]))
	perCluster, reserved, fats := int64(p[13]), int64(le.Uint16(p[14:])), int64(p[16])
	rootEntries, total, fatLen := int64(le.Uint16(p[17:])), int64(le.Uint16(p[19:])), int64(le.Uint16(p[22:]))
	if total == 0 {
		total = int64(le.Uint32(p[32:]))
	}
	ext := p[36:]
	if fatLen == 0 {
		fatLen = int64(le.Uint32(p[36:]))
		ext = p[64:]
	}
	if sector < 512 || sector > 4096 || sector&(sector-1) != 0 || perCluster == 0 || perCluster&(perCluster-1) != 0 ||
		reserved == 0 || fats == 0 || fatLen == 0 {
		return nil, tree.Damaged("the boot sector")
	}
	f := &FS{dev: dev, cluster: perCluster * sector, fat: reserved * sector, fatSize: fatLen * sector}
	f.root, f.rootSize = f.fat+fats*f.fatSize, rootEntries*32
	f.data = f.root + (f.rootSize+sector-1)/sector*sector
	n := (total*sector - f.data) / f.cluster
	switch {
	case n <= 0 || f.data > dev.Size() || total*sector > dev.Size():
		return nil, tree.Damaged("it has %d sectors of %d bytes on a device of %d bytes", total, sector, dev.Size())
	case n < 4085:
		f.bits = 12
	case n < 65525:
		f.bits = 16
	case n < 0x0ffffff5:
		f.bits = 32
	default:
		return nil, tree.Damaged("it has %d clusters", n)
	}
	if le.Uint16(p[22:]) == 0 { // some small ones are FAT32 all the same
		f.bits, f.rootAt = 32, le.Uint32(p[44:])&0x0fffffff
	}
	f.clusters = uint32(n) + 1
	if f.fatSize*8/int64(f.bits) <= int64(f.clusters) {
		return nil, tree.Damaged("its table is too small for %d clusters", n)
	}
	f.info = tree.Info{
		Type: "vfat", Label: strings.TrimRight(string(ext[7:18]), " "),
		UUID: fmt.Sprintf("%04X-%04X", le.Uint16(ext[5:]), le.Uint16(ext[3:])),
	}
	if f.info.Label == "NO NAME" {
		f.info.Label = ""
	}
	return f, nil
}

// Info implements tree.FS.
func (f *FS) Info() tree.Info { return f.info }

// Root implements tree.FS.
func (f *FS) Root() (tree.Node, error) {
	n := &node{f: f, first: f.rootAt, dir: true, root: true}
	n.stat = tree.Stat{Mode: fs.ModeDir | 0o755, ID: uint64(f.root)}
	return n, nil
}

// next is the cluster after c; 0 at the end.
func (f *FS) next(c uint32) (uint32, error) {
	var p [4]byte
	off, size := int64(c)*int64(f.bits)/8, 4
	if f.bits < 32 {
		size = 2
	}
	if err := tree.ReadFull(f.dev, p[:size], f.fat+off); err != nil {
		return 0, err
	}
	v, end := le.Uint32(p[:])&0x0fffffff, uint32(0x0ffffff8)
	switch f.bits {
	case 12:
		v, end = v>>(c&1*4)&0xfff, 0xff8
	case 16:
		end = 0xfff8
	}
	if v >= end {
		return 0, nil
	}
	if v < 2 || v > f.clusters {
		return 0, tree.Damaged("cluster %d is followed by %d", c, v)
	}
	return v, nil
}

// chain is a file's clusters, followed as far as was asked.
type chain struct {
	f     *FS
	first uint32
	at    int64 // index of c
	c     uint32
}

// find gives the extent of a byte.
func (h *chain) find(off int64) (tree.Extent, error) {
	want := off / h.f.cluster
	if h.c == 0 || want < h.at {
		h.at, h.c = 0, h.first
	}
	if h.c < 2 || h.c > h.f.clusters {
		return tree.Extent{}, tree.Damaged("a file begins at cluster %d of %d", h.c, h.f.clusters)
	}
	for h.at < want {
		if h.at > int64(h.f.clusters) {
			return tree.Extent{}, tree.Damaged("a chain of clusters without an end")
		}
		c, err := h.f.next(h.c)
		if err != nil {
			return tree.Extent{}, err
		}
		if c == 0 {
			return tree.Extent{}, errShort
		}
		h.at, h.c = h.at+1, c
	}
	return tree.Extent{At: want * h.f.cluster, Len: h.f.cluster, Disk: h.f.data + int64(h.c-2)*h.f.cluster}, nil
}

var errShort = tree.Damaged("a chain of clusters ends before its file")

// node is a file or directory.
type node struct {
	f     *FS
	stat  tree.Stat
	first uint32
	dir   bool
	root  bool
}

// Stat implements tree.Node.
func (n *node) Stat() tree.Stat { return n.stat }

// Readlink implements tree.Node.
func (n *node) Readlink() (string, error) { return "", tree.ErrNotFile }

// Open implements tree.Node.
func (n *node) Open() (io.ReaderAt, error) {
	if n.dir {
		return nil, tree.ErrNotFile
	}
	h := &chain{f: n.f, first: n.first}
	return &tree.Mapped{Device: n.f.dev, Size: n.stat.Size, Find: h.find}, nil
}

// Lookup implements tree.Node. Names are compared as Windows does.
func (n *node) Lookup(name string) (tree.Node, error) {
	return tree.Find(n, func(s string) bool { return strings.EqualFold(s, name) })
}

// stamp is a date and time of the guest's clock, whose zone is not recorded.
func stamp(date, clock uint16) time.Time {
	if date == 0 {
		return time.Time{}
	}
	return time.Date(1980+int(date>>9), time.Month(date>>5&15), int(date&31), int(clock>>11), int(clock>>5&63), int(clock&31)*2, 0, time.UTC)
}
