package xfs

import (
	"errors"
	"fmt"

	"github.com/rephub/rephub/internal/files/tree"
)

// Types of items that change what we read. Intents (to free, to map, ...) that
// a crash left undone change no file's content.
const (
	itemInode  = 0x123b
	itemBuffer = 0x123c
	itemCreate = 0x123f

	bufferInodes = 0x1 // only the lists of unlinked inodes were logged
	bufferCancel = 0x2 // the blocks were freed: what was logged earlier does not count
	chunk        = 128 // bytes of a buffer per bit of its map

	inodeData    = 0x002
	inodeExtents = 0x004
	inodeRoot    = 0x008
	inodeFork    = inodeData | inodeExtents | inodeRoot
)

// extent is a buffer: blocks of 512 bytes.
type extent struct{ at, n int64 }

// player carries out what the log says.
type player struct {
	f         *FS
	o         *overlay
	cancelled map[extent]int
	lsn       uint64 // of the transaction at hand
}

// bufferOf reads what a buffer's item says of it.
func bufferOf(i *item) (e extent, flags uint16, bits []byte, err error) {
	p := i.regions[0]
	if len(p) < 20 {
		return e, 0, nil, tree.Damaged("a buffer in the log")
	}
	bits = p[20:]
	n := int(le.Uint32(p[16:]))
	if n < 0 || n > len(bits)/4 {
		return e, 0, nil, tree.Damaged("a buffer in the log")
	}
	e = extent{at: int64(le.Uint64(p[8:])), n: int64(le.Uint16(p[6:]))}
	return e, le.Uint16(p[4:]), bits[:n*4], nil
}

// note is the first walk: which buffers were cancelled, and how often.
func (p *player) note(i *item) error {
	if le.Uint16(i.regions[0]) != itemBuffer {
		return nil
	}
	e, flags, _, err := bufferOf(i)
	if err == nil && flags&bufferCancel != 0 {
		p.cancelled[e]++
	}
	return err
}

// play is the second walk.
func (p *player) play(i *item) error {
	switch le.Uint16(i.regions[0]) {
	case itemBuffer:
		return p.buffer(i)
	case itemInode:
		return p.inode(i)
	case itemCreate:
		return p.create(i)
	}
	return nil
}

func (p *player) buffer(i *item) error {
	e, flags, bits, err := bufferOf(i)
	if err != nil {
		return err
	}
	if flags&bufferCancel != 0 {
		if p.cancelled[e]--; p.cancelled[e] <= 0 {
			delete(p.cancelled, e)
		}
		return nil
	}
	if p.cancelled[e] > 0 || flags&bufferInodes != 0 {
		return nil
	}
	if e.at < 0 || e.n == 0 || e.n > 512 || e.at > p.o.Size()/basicBlock-e.n {
		return tree.Damaged("the log changes block %d", e.at)
	}
	b := make([]byte, e.n*basicBlock)
	if err := tree.ReadFull(p.o, b, e.at*basicBlock); err != nil {
		return err
	}
	if newer := p.f.lsnOf(b); newer != 0 && newer != ^uint64(0) && newer >= p.lsn {
		return nil
	}
	set := func(n int) bool { return n/8 < len(bits) && bits[n/8]>>(n%8)&1 != 0 }
	region := 1
	for n := 0; n < len(bits)*8; {
		if !set(n) {
			n++
			continue
		}
		run := n
		for set(run) {
			run++
		}
		if region >= len(i.regions) {
			return tree.Damaged("a buffer in the log lacks bytes")
		}
		data := i.regions[region]
		// A region may hold less than the run: the next goes on.
		run = min(run, n+len(data)/chunk)
		if run == n || run*chunk > len(b) {
			return tree.Damaged("a buffer in the log")
		}
		copy(b[n*chunk:run*chunk], data)
		region++
		n = run
	}
	return p.o.write(b, e.at*basicBlock)
}

// lsnOf is when a block of version 5 was last written, as the block says; 0
// when it does not.
func (f *FS) lsnOf(b []byte) uint64 {
	if !f.v5 {
		return 0
	}
	lsn, uuid := 0, 0
	switch be.Uint32(b) {
	case bmap3Magic:
		lsn, uuid = 32, 40
	case dirBlock3, dirData3, 0x58444633: // XDF3, a list of free room
		lsn, uuid = 16, 24
	case 0x58534c4d: // XSLM, a symbolic link
		lsn, uuid = 48, 24
	case 0x41423342, 0x41423343, 0x49414233, 0x46494233, 0x524d4233, 0x52334643: // trees of a group
		lsn, uuid = 24, 32
	default:
		switch be.Uint16(b[8:]) {
		case 0x3df1, 0x3dff, 0x3bee, 0x3ebe: // indexes
			lsn, uuid = 24, 32
		default:
			return 0
		}
	}
	if string(b[uuid:uuid+16]) != string(f.uuid[:]) {
		return 0 // of a file system that was here before
	}
	return be.Uint64(b[lsn:])
}

// inode carries out a change of an inode.
func (p *player) inode(i *item) error {
	h := i.regions[0]
	if len(h) < 56 {
		return tree.Unsupported("its log was written by a 32-bit kernel")
	}
	if len(i.regions) < 2 {
		return tree.Damaged("an inode in the log lacks its core")
	}
	fields, ino := le.Uint32(h[4:]), le.Uint64(h[16:])
	if p.cancelled[extent{int64(le.Uint64(h[40:])), int64(le.Uint32(h[48:]))}] > 0 {
		return nil
	}
	at, err := p.f.inodeAt(ino)
	if err != nil {
		return err
	}
	b := make([]byte, p.f.inodeSize)
	if err := tree.ReadFull(p.o, b, at); err != nil {
		return err
	}
	core := i.regions[1]
	if len(core) < coreSize2 || len(core) < coreSize(core[4]) || len(core) > len(b) {
		return tree.Damaged("inode %d in the log", ino)
	}
	if be.Uint16(b) == inodeMagic && p.older(b, core) {
		return nil
	}
	toDisk(b, core)
	if fields&inodeFork != 0 {
		if len(i.regions) < 3 {
			return tree.Damaged("inode %d in the log lacks its data", ino)
		}
		if err := p.fork(b, i.regions[2], fields); err != nil {
			return fmt.Errorf("inode %d in the log: %w", ino, err)
		}
	}
	return p.o.write(b, at)
}

// older says whether the log's inode is older than that on the disk.
func (p *player) older(disk, core []byte) bool {
	if disk[4] >= 3 && core[4] >= 3 {
		lsn := be.Uint64(disk[offInodeLSN:])
		return lsn != 0 && lsn != ^uint64(0) && lsn > p.lsn
	}
	// Version 2 counts how often an inode was written, and begins again.
	a, b := le.Uint16(core[30:]), be.Uint16(disk[30:])
	return disk[4] < 3 && a < b && !(b == 0xffff && a < 0x7fff)
}

// swapped are the numbers in an inode's core, which are logged in the byte order
// of the machine: offset and size.
var swapped = []struct{ at, n int }{
	{0, 2}, {2, 2}, {6, 2}, {8, 4}, {12, 4}, {16, 4}, {20, 2}, {22, 2},
	{56, 8}, {64, 8}, {72, 4}, {84, 4}, {88, 2}, {90, 2}, {92, 4}, {96, 4},
}

// swapped3 follow in version 3.
var swapped3 = []struct{ at, n int }{{104, 8}, {112, 8}, {120, 8}, {128, 4}, {152, 8}}

// toDisk writes a logged core as it is on the disk.
func toDisk(b, core []byte) {
	v3 := core[4] >= 3
	size := coreSize(core[4])
	var flags2 uint64
	if v3 {
		flags2 = le.Uint64(core[offInodeFlags2:])
	}
	p := append([]byte(nil), core[:size]...)
	for _, s := range swapped {
		reverse(p[s.at : s.at+s.n])
	}
	times := []int{32, 40, 48}
	if v3 {
		for _, s := range swapped3 {
			reverse(p[s.at : s.at+s.n])
		}
		times = append(times, 144)
	}
	for _, at := range times {
		if flags2&flags2Bigtime != 0 {
			reverse(p[at : at+8])
			continue
		}
		reverse(p[at : at+4])
		reverse(p[at+4 : at+8])
	}
	if flags2&flags2Nrext64 != 0 {
		reverse(p[24:32])
		reverse(p[76:80])
	} else {
		reverse(p[30:32])
		reverse(p[76:80])
		reverse(p[80:82])
	}
	be.PutUint16(p, inodeMagic)
	copy(b, p)
}

func reverse(p []byte) {
	for i, j := 0, len(p)-1; i < j; i, j = i+1, j-1 {
		p[i], p[j] = p[j], p[i]
	}
}

// fork writes a logged data fork into the inode b.
func (p *player) fork(b, data []byte, fields uint32) error {
	from, to := coreSize(b[4]), len(b)
	if off := int(b[offForkoff]) * 8; off != 0 {
		to = from + off
	}
	if to > len(b) {
		return tree.Damaged("its fork is at %d", to)
	}
	fork := b[from:to]
	if fields&inodeRoot == 0 {
		// Regions are padded to 4 bytes, which the fork need not hold.
		copy(fork, data)
		return nil
	}
	// A root is logged as a block and kept without the block's header.
	header := 24
	if p.f.v5 {
		header = 72
	}
	if len(data) < header {
		return tree.Damaged("its root has %d bytes", len(data))
	}
	n := int(be.Uint16(data[6:]))
	have, room := (len(data)-header)/16, (len(fork)-4)/16
	if n > have || n > room {
		return tree.Damaged("its root has %d keys", n)
	}
	copy(fork, data[4:8])
	copy(fork[4:], data[header:header+n*8])
	copy(fork[4+room*8:], data[header+have*8:header+have*8+n*8])
	return nil
}

// create makes the inodes of a new cluster, none of which is in use.
func (p *player) create(i *item) error {
	h := i.regions[0]
	if len(h) < 28 {
		return tree.Damaged("a cluster of inodes in the log")
	}
	ag, block, count, size, length := uint64(be.Uint32(h[4:])), uint64(be.Uint32(h[8:])), uint64(be.Uint32(h[12:])), int64(be.Uint32(h[16:])), int64(be.Uint32(h[20:]))
	if size != p.f.inodeSize || count > 1<<12 || int64(count)*size != length*p.f.blockSize || ag >= p.f.agCount || block >= p.f.agBlocks {
		return tree.Damaged("a cluster of inodes in the log")
	}
	first := (ag<<p.f.agLog | block) << p.f.inopLog
	at, err := p.f.inodeAt(first)
	if err != nil {
		return err
	}
	if p.gone(at/basicBlock, length*p.f.blockSize/basicBlock) {
		return nil
	}
	all := make([]byte, int64(count)*size)
	for n := range count {
		b := all[int64(n)*size:]
		be.PutUint16(b, inodeMagic)
		b[4] = 3
		be.PutUint64(b[152:], first+n)
		copy(b[160:], p.f.uuid[:])
	}
	if err := p.o.write(all, at); err != nil {
		return errors.Join(tree.Damaged("a cluster of inodes in the log"), err)
	}
	return nil
}

// gone says whether a later transaction cancels a buffer of a range.
func (p *player) gone(at, n int64) bool {
	for e := range p.cancelled {
		if e.at >= at && e.at+e.n <= at+n {
			return true
		}
	}
	return false
}
