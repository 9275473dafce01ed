// Package ext reads ext2, ext3 and ext4, as a guest would see them after it has
// replayed the journal. It is our own because what a crashed guest's files were
// is in the journal, which no library replays; docs/design/011 tells more.
package ext

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/bits"
	"strings"
	"time"

	"github.com/rephub/rephub/internal/files/tree"
)

var le = binary.LittleEndian

// Feature bits of the superblock (Documentation/filesystems/ext4 in Linux).
const (
	compatJournal = 0x4

	incompatFiletype  = 0x2
	incompatRecover   = 0x4
	incompatJournal   = 0x8 // this is a journal's device
	incompatMetaBG    = 0x10
	incompatExtents   = 0x40
	incompat64        = 0x80
	incompatMMP       = 0x100
	incompatFlexBG    = 0x200
	incompatEAInode   = 0x400
	incompatSeed      = 0x2000
	incompatLargeDir  = 0x4000
	incompatInline    = 0x8000
	incompatEncrypt   = 0x10000
	incompatCasefold  = 0x20000
	incompatSupported = incompatFiletype | incompatRecover | incompatMetaBG | incompatExtents | incompat64 | incompatMMP |
		incompatFlexBG | incompatEAInode | incompatSeed | incompatLargeDir | incompatInline | incompatEncrypt | incompatCasefold

	roCompatBigalloc = 0x200
)

const (
	superOffset = 1024
	superMagic  = 0xef53
	rootInode   = 2
)

// FS is an open file system.
type FS struct {
	dev       tree.Device // with the journal replayed
	info      tree.Info
	blockSize int64
	blocks    uint64 // of the file system
	first     uint64 // data block: 1 with blocks of 1 KiB
	perGroup  uint32 // inodes
	blocksPer uint32 // per group
	inodes    uint32
	inodeSize int64
	descSize  int64
	incompat  uint32
	metaBG    uint32 // first group of blocks of descriptors that lie in their groups
	journal   uint32 // inode
}

// Probe says whether dev may hold an ext file system.
func Probe(dev tree.Device) bool {
	var p [2]byte
	return tree.ReadFull(dev, p[:], superOffset+0x38) == nil && le.Uint16(p[:]) == superMagic
}

// Open reads the superblock, and the journal when it is needed.
func Open(dev tree.Device) (*FS, error) {
	f, err := open(dev)
	if err != nil {
		return nil, err
	}
	if f.incompat&incompatRecover == 0 {
		return f, nil
	}
	if f.journal == 0 {
		return nil, tree.Unsupported("its journal is on another device")
	}
	replayed, err := f.replay()
	if err != nil {
		return nil, fmt.Errorf("replay the journal: %w", err)
	}
	// The superblock and the descriptors may be in the journal, too.
	again, err := open(replayed)
	if err != nil {
		return nil, fmt.Errorf("after the replay of the journal: %w", err)
	}
	return again, nil
}

func open(dev tree.Device) (*FS, error) {
	sb := make([]byte, 1024)
	if err := tree.ReadFull(dev, sb, superOffset); err != nil {
		return nil, err
	}
	if le.Uint16(sb[0x38:]) != superMagic {
		return nil, tree.Damaged("no superblock")
	}
	f := &FS{
		dev: dev, blocks: uint64(le.Uint32(sb[4:])), first: uint64(le.Uint32(sb[0x14:])),
		blocksPer: le.Uint32(sb[0x20:]), perGroup: le.Uint32(sb[0x28:]), inodes: le.Uint32(sb),
		inodeSize: 128, descSize: 32, metaBG: le.Uint32(sb[0x104:]),
	}
	log := le.Uint32(sb[0x18:])
	if log > 6 {
		return nil, tree.Damaged("block size 2^%d KiB", log)
	}
	f.blockSize = 1024 << log
	if le.Uint32(sb[0x4c:]) > 0 { // revision
		f.inodeSize = int64(le.Uint16(sb[0x58:]))
		f.incompat = le.Uint32(sb[0x60:])
		if le.Uint32(sb[0x5c:])&compatJournal != 0 {
			f.journal = le.Uint32(sb[0xe0:])
		}
	}
	if f.incompat&incompat64 != 0 {
		f.blocks |= uint64(le.Uint32(sb[0x150:])) << 32
		f.descSize = int64(le.Uint16(sb[0xfe:]))
	}
	if err := f.validate(sb); err != nil {
		return nil, err
	}
	f.describe(sb)
	return f, nil
}

func (f *FS) validate(sb []byte) error {
	switch {
	case f.incompat&incompatJournal != 0:
		return tree.Unsupported("it is the journal of another file system")
	case f.incompat&^uint32(incompatSupported) != 0:
		return tree.Unsupported("it has features that are not known here: %#x", f.incompat&^uint32(incompatSupported))
	case f.inodeSize < 128 || f.inodeSize > f.blockSize || bits.OnesCount64(uint64(f.inodeSize)) != 1:
		return tree.Damaged("inodes of %d bytes", f.inodeSize)
	case f.descSize < 32 || f.descSize > f.blockSize || bits.OnesCount64(uint64(f.descSize)) != 1:
		return tree.Damaged("group descriptors of %d bytes", f.descSize)
	case f.perGroup == 0 || f.blocksPer == 0 || f.blocks == 0 || f.inodes == 0:
		return tree.Damaged("empty groups")
	case f.blocks > uint64(f.dev.Size()/f.blockSize):
		return tree.Damaged("it has %d blocks of %d bytes on a device of %d bytes", f.blocks, f.blockSize, f.dev.Size())
	}
	return nil
}

func (f *FS) describe(sb []byte) {
	f.info.Type = "ext2"
	switch {
	case f.incompat&(incompatExtents|incompat64|incompatFlexBG) != 0:
		f.info.Type = "ext4"
	case f.journal != 0:
		f.info.Type = "ext3"
	}
	u := sb[0x68:0x78]
	f.info.UUID = fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
	f.info.Label = strings.TrimRight(string(sb[0x78:0x88]), "\x00")
}

// Info implements tree.FS.
func (f *FS) Info() tree.Info { return f.info }

// Root implements tree.FS.
func (f *FS) Root() (tree.Node, error) { return f.node(rootInode) }

// block reads block n; blocks that do not exist are damage.
func (f *FS) block(n uint64) ([]byte, error) {
	if n == 0 || n >= f.blocks {
		return nil, tree.Damaged("block %d of %d", n, f.blocks)
	}
	p := make([]byte, f.blockSize)
	return p, tree.ReadFull(f.dev, p, int64(n)*f.blockSize)
}

// tableOf is the block at which a group's inodes begin.
func (f *FS) tableOf(group uint32) (uint64, error) {
	perBlock := uint32(f.blockSize / f.descSize)
	at := f.first + 1 + uint64(group/perBlock)
	if f.incompat&incompatMetaBG != 0 && group/perBlock >= f.metaBG {
		// The descriptors lie in the first group of those that they describe.
		leader := uint64(group / perBlock * perBlock)
		at = f.first + leader*uint64(f.blocksPer)
		if f.hasSuper(leader) {
			at++
		}
	}
	p, err := f.block(at)
	if err != nil {
		return 0, fmt.Errorf("descriptor of group %d: %w", group, err)
	}
	d := p[int64(group%perBlock)*f.descSize:]
	table := uint64(le.Uint32(d[8:]))
	if f.descSize >= 64 {
		table |= uint64(le.Uint32(d[0x28:])) << 32
	}
	return table, nil
}

// hasSuper says whether a group begins with a copy of the superblock, taking
// it for sparse_super, which everything with meta_bg has.
func (f *FS) hasSuper(group uint64) bool {
	if group <= 1 {
		return true
	}
	for _, base := range []uint64{3, 5, 7} {
		n := base
		for n < group {
			n *= base
		}
		if n == group {
			return true
		}
	}
	return false
}

// inode is the part of an inode that we use.
type inode struct {
	f     *FS
	n     uint32
	stat  tree.Stat
	flags uint32
	block [60]byte
	raw   []byte // all of it, for data that is inside
}

// Inode flags.
const (
	flagEncrypt  = 0x800
	flagIndex    = 0x1000
	flagExtents  = 0x80000
	flagInline   = 0x10000000
	extraSizeOff = 0x80
)

func (f *FS) inode(n uint32) (*inode, error) {
	if n == 0 || n > f.inodes {
		return nil, tree.Damaged("inode %d of %d", n, f.inodes)
	}
	table, err := f.tableOf((n - 1) / f.perGroup)
	if err != nil {
		return nil, err
	}
	if table == 0 || table >= f.blocks {
		return nil, tree.Damaged("the inodes of group %d begin at block %d of %d", (n-1)/f.perGroup, table, f.blocks)
	}
	p := make([]byte, f.inodeSize)
	if err := tree.ReadFull(f.dev, p, int64(table)*f.blockSize+int64((n-1)%f.perGroup)*f.inodeSize); err != nil {
		return nil, fmt.Errorf("inode %d: %w", n, err)
	}
	i := &inode{f: f, n: n, flags: le.Uint32(p[0x20:]), raw: p}
	copy(i.block[:], p[0x28:])
	size := uint64(le.Uint32(p[4:]))
	mode := le.Uint16(p)
	if mode&0xf000 == 0x8000 || f.incompat&incompatLargeDir != 0 {
		size |= uint64(le.Uint32(p[0x6c:])) << 32
	}
	if size > 1<<62 {
		return nil, tree.Damaged("inode %d has %d bytes", n, size)
	}
	i.stat = tree.Stat{
		Mode: tree.UnixMode(mode), Size: int64(size), ID: uint64(n), ModTime: i.modTime(),
		UID: uint32(le.Uint16(p[2:])) | uint32(le.Uint16(p[0x78:]))<<16,
		GID: uint32(le.Uint16(p[0x18:])) | uint32(le.Uint16(p[0x7a:]))<<16,
	}
	return i, nil
}

func (i *inode) modTime() time.Time {
	sec, nsec := int64(int32(le.Uint32(i.raw[0x10:]))), int64(0)
	if len(i.raw) >= 0x8c && le.Uint16(i.raw[extraSizeOff:]) >= 0xc {
		extra := le.Uint32(i.raw[0x88:])
		sec += int64(extra&3) << 32
		nsec = int64(extra >> 2)
	}
	return time.Unix(sec, nsec).UTC()
}

func (f *FS) node(n uint32) (tree.Node, error) {
	i, err := f.inode(n)
	if err != nil {
		return nil, err
	}
	if i.raw[0] == 0 && i.raw[1] == 0 {
		return nil, tree.Damaged("inode %d is not in use", n)
	}
	return i, nil
}

var _ tree.Node = (*inode)(nil)

// Stat implements tree.Node.
func (i *inode) Stat() tree.Stat { return i.stat }

func (i *inode) is(t fs.FileMode) bool { return i.stat.Mode.Type() == t }
