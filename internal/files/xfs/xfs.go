// Package xfs reads XFS, versions 4 and 5 of its format. It is our own because
// what a crashed guest's files were is in the log, which no library replays;
// docs/design/011 tells more.
package xfs

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/rephub/rephub/internal/files/tree"
)

var be = binary.BigEndian

// Feature bits of the superblock (fs/xfs/libxfs/xfs_format.h in Linux).
const (
	superMagic = 0x58465342

	features2Ftype = 0x200

	incompatFtype     = 0x1
	incompatRepair    = 0x10
	incompatSupported = 0x1ff // up to directories for metadata
)

// FS is an open file system.
type FS struct {
	dev       tree.Device // with the log replayed
	info      tree.Info
	uuid      [16]byte // of metadata
	v5, ftype bool
	blockSize int64
	dirBlock  int64 // bytes
	inodeSize int64
	agBlocks  uint64
	agCount   uint64
	agLog     uint // bits of a block's number in its group
	inopLog   uint // bits of an inode's number in its block
	rootIno   uint64
	logStart  uint64 // block; 0 when the log is on another device
	logBlocks uint32
}

// Probe says whether dev may hold an XFS file system.
func Probe(dev tree.Device) bool {
	var p [4]byte
	return tree.ReadFull(dev, p[:], 0) == nil && be.Uint32(p[:]) == superMagic
}

// Open reads the superblock, and replays the log.
func Open(dev tree.Device) (*FS, error) {
	f, err := open(dev)
	if err != nil {
		return nil, err
	}
	if f.logStart == 0 {
		return nil, tree.Unsupported("its log is on another device")
	}
	if f.dev, err = f.replay(); err != nil {
		return nil, fmt.Errorf("replay the log: %w", err)
	}
	return f, nil
}

func open(dev tree.Device) (*FS, error) {
	sb := make([]byte, 512)
	if err := tree.ReadFull(dev, sb, 0); err != nil {
		return nil, err
	}
	if be.Uint32(sb) != superMagic {
		return nil, tree.Damaged("no superblock")
	}
	f := &FS{
		dev: dev, blockSize: int64(be.Uint32(sb[4:])), rootIno: be.Uint64(sb[56:]), logStart: be.Uint64(sb[48:]),
		logBlocks: be.Uint32(sb[96:]), agBlocks: uint64(be.Uint32(sb[84:])), agCount: uint64(be.Uint32(sb[88:])),
		inodeSize: int64(be.Uint16(sb[104:])), agLog: uint(sb[124]), inopLog: uint(sb[123]),
	}
	version, incompat := be.Uint16(sb[100:])&0xf, uint32(0)
	copy(f.uuid[:], sb[32:])
	switch version {
	case 4:
		f.ftype = be.Uint32(sb[200:])&features2Ftype != 0
	case 5:
		f.v5, incompat = true, be.Uint32(sb[216:])
		f.ftype = incompat&incompatFtype != 0
		if incompat&0x4 != 0 { // the guest was given another UUID
			copy(f.uuid[:], sb[248:])
		}
	default:
		return nil, tree.Unsupported("it is of version %d", version)
	}
	if incompat&^uint32(incompatSupported) != 0 {
		return nil, tree.Unsupported("it has features that are not known here: %#x", incompat&^uint32(incompatSupported))
	}
	if sb[192] > 7 || f.blockSize < 512 || f.blockSize > 64<<10 || f.blockSize&(f.blockSize-1) != 0 || f.inodeSize < 256 ||
		f.inodeSize > f.blockSize || f.agBlocks == 0 || f.agCount == 0 || f.agLog > 31 || f.inopLog > 16 ||
		f.agBlocks > 1<<f.agLog || f.inodeSize<<f.inopLog != f.blockSize {
		return nil, tree.Damaged("the superblock")
	}
	if blocks := be.Uint64(sb[8:]); blocks > uint64(dev.Size()/f.blockSize) || blocks > f.agBlocks*f.agCount {
		return nil, tree.Damaged("it has %d blocks of %d bytes on a device of %d bytes", blocks, f.blockSize, dev.Size())
	}
	f.dirBlock = f.blockSize << sb[192]
	u := sb[32:48]
	f.info = tree.Info{
		Type: "xfs", Label: strings.TrimRight(string(sb[108:120]), "\x00"),
		UUID: fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]),
	}
	if incompat&incompatRepair != 0 {
		f.info.Notes = append(f.info.Notes, "the guest found this file system damaged and wants xfs_repair to be run")
	}
	return f, nil
}

// Info implements tree.FS.
func (f *FS) Info() tree.Info { return f.info }

// Root implements tree.FS.
func (f *FS) Root() (tree.Node, error) { return f.node(f.rootIno) }

// offset is where a block is, in bytes.
func (f *FS) offset(block uint64) (int64, error) {
	ag, n := block>>f.agLog, block&(1<<f.agLog-1)
	if ag >= f.agCount || n >= f.agBlocks {
		return 0, tree.Damaged("block %d of group %d", n, ag)
	}
	return int64(ag*f.agBlocks+n) * f.blockSize, nil
}

// inodeAt is where an inode is, in bytes.
func (f *FS) inodeAt(ino uint64) (int64, error) {
	off, err := f.offset(ino >> f.inopLog)
	if err != nil {
		return 0, fmt.Errorf("inode %d: %w", ino, err)
	}
	return off + int64(ino&(1<<f.inopLog-1))*f.inodeSize, nil
}

// Formats of an inode's data.
const (
	formatLocal   = 1
	formatExtents = 2
	formatBtree   = 3
)

// Flags of inodes.
const (
	flagRealtime   = 0x1
	flags2Bigtime  = 0x8
	flags2Nrext64  = 0x10
	inodeMagic     = 0x494e
	coreSize2      = 100
	coreSize3      = 176
	bigtimeEpoch   = 1 << 31 // seconds before 1970
	offForkoff     = 82
	offInodeLSN    = 112
	offInodeFlags2 = 120
)

// inode is what we use of one.
type inode struct {
	f      *FS
	n      uint64
	stat   tree.Stat
	format byte
	flags  uint16
	count  uint64 // extents
	data   []byte // the data fork
}

func coreSize(version byte) int {
	if version >= 3 {
		return coreSize3
	}
	return coreSize2
}

func (f *FS) inode(n uint64) (*inode, error) {
	at, err := f.inodeAt(n)
	if err != nil {
		return nil, err
	}
	p := make([]byte, f.inodeSize)
	if err := tree.ReadFull(f.dev, p, at); err != nil {
		return nil, fmt.Errorf("inode %d: %w", n, err)
	}
	if be.Uint16(p) != inodeMagic || p[4] > 3 || p[4] >= 3 && be.Uint64(p[152:]) != n {
		return nil, tree.Damaged("inode %d", n)
	}
	mode := be.Uint16(p[2:])
	if mode == 0 {
		return nil, tree.Damaged("inode %d is not in use", n)
	}
	i := &inode{f: f, n: n, format: p[5], flags: be.Uint16(p[90:]), count: uint64(be.Uint32(p[76:]))}
	var flags2 uint64
	if p[4] >= 3 {
		flags2 = be.Uint64(p[offInodeFlags2:])
	}
	if flags2&flags2Nrext64 != 0 {
		i.count = be.Uint64(p[24:])
	}
	core := coreSize(p[4])
	end := len(p)
	if off := int(p[offForkoff]) * 8; off != 0 {
		end = core + off
	}
	if end > len(p) {
		return nil, tree.Damaged("inode %d", n)
	}
	i.data = p[core:end]
	size := be.Uint64(p[56:])
	if size > 1<<62 {
		return nil, tree.Damaged("inode %d has %d bytes", n, size)
	}
	i.stat = tree.Stat{
		Mode: tree.UnixMode(mode), Size: int64(size), UID: be.Uint32(p[8:]), GID: be.Uint32(p[12:]), ID: n,
		ModTime: stamp(be.Uint64(p[40:]), flags2&flags2Bigtime != 0),
	}
	return i, nil
}

func stamp(v uint64, big bool) time.Time {
	if big {
		return time.Unix(int64(v/1e9)-bigtimeEpoch, int64(v%1e9)).UTC()
	}
	return time.Unix(int64(int32(v>>32)), int64(uint32(v))).UTC()
}

func (f *FS) node(n uint64) (tree.Node, error) {
	i, err := f.inode(n)
	if err != nil {
		return nil, err
	}
	return i, nil
}

var _ tree.Node = (*inode)(nil)

// Stat implements tree.Node.
func (i *inode) Stat() tree.Stat { return i.stat }

func (i *inode) is(t fs.FileMode) bool { return i.stat.Mode.Type() == t }
