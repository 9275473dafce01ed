package ext

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"

	"github.com/rephub/rephub/internal/files/tree"
)

// maxLink bounds a symbolic link's target, in bytes; Linux allows a block.
const maxLink = 64 << 10

// Open implements tree.Node.
func (i *inode) Open() (io.ReaderAt, error) {
	if !i.is(0) {
		return nil, tree.ErrNotFile
	}
	return i.content()
}

func (i *inode) content() (io.ReaderAt, error) {
	switch {
	case i.flags&flagEncrypt != 0:
		return nil, tree.Unsupported("it is encrypted by the guest")
	case i.flags&flagInline != 0:
		return i.inline()
	}
	m := &tree.Mapped{Device: i.f.dev, Size: i.stat.Size, Find: i.indirect}
	if i.flags&flagExtents != 0 {
		x := &extents{i: i}
		m.Find = x.find
	}
	return m, nil
}

// inline is a file whose bytes lie in the inode: the first 60 in the place of
// the map, the others in the attribute system.data.
func (i *inode) inline() (io.ReaderAt, error) {
	data := bytes.Clone(i.block[:])
	if i.stat.Size > int64(len(data)) {
		data = append(data, i.inlineRest()...)
	}
	if int64(len(data)) < i.stat.Size {
		return nil, tree.Damaged("inode %d holds %d of its %d bytes", i.n, len(data), i.stat.Size)
	}
	return bytes.NewReader(data[:i.stat.Size]), nil
}

// inlineRest is the attribute system.data of an inode.
func (i *inode) inlineRest() []byte {
	if len(i.raw) < 0x84 {
		return nil
	}
	p := i.raw[min(len(i.raw), 0x80+int(le.Uint16(i.raw[extraSizeOff:]))):]
	if len(p) < 4 || le.Uint32(p) != 0xea020000 {
		return nil
	}
	values := p[4:]
	for e := values; len(e) >= 16 && le.Uint32(e) != 0; {
		nameLen := int(e[0])
		if len(e) < 16+nameLen {
			return nil
		}
		if e[1] == 7 && string(e[16:16+nameLen]) == "data" && le.Uint32(e[4:]) == 0 {
			from, n := int(le.Uint16(e[2:])), int(min(le.Uint32(e[8:]), 1<<16))
			if from+n > len(values) {
				return nil
			}
			return values[from : from+n]
		}
		next := (16 + nameLen + 3) &^ 3
		if next > len(e) {
			return nil
		}
		e = e[next:]
	}
	return nil
}

// Readlink implements tree.Node.
func (i *inode) Readlink() (string, error) {
	if !i.is(fs.ModeSymlink) {
		return "", fmt.Errorf("read link: %w", tree.ErrNotFile)
	}
	if i.flags&flagEncrypt != 0 {
		return "", tree.Unsupported("it is encrypted by the guest")
	}
	if i.stat.Size < 0 || i.stat.Size > maxLink {
		return "", tree.Damaged("symbolic link %d has %d bytes", i.n, i.stat.Size)
	}
	p := make([]byte, i.stat.Size)
	if i.stat.Size < int64(len(i.block)) && i.flags&(flagExtents|flagInline) == 0 {
		copy(p, i.block[:])
		return string(p), nil
	}
	c, err := i.content()
	if err != nil {
		return "", err
	}
	if _, err := c.ReadAt(p, 0); err != nil && err != io.EOF {
		return "", err
	}
	return string(p), nil
}

// indirect finds a byte by the block pointers of ext2 and ext3.
func (i *inode) indirect(off int64) (tree.Extent, error) {
	bs := i.f.blockSize
	per := bs / 4
	n := off / bs
	one := tree.Extent{At: n * bs, Len: bs, Disk: -1}
	if n < 12 {
		return i.place(one, le.Uint32(i.block[n*4:]))
	}
	rest := n - 12
	for depth := range int64(3) {
		span := int64(1) // blocks below a pointer
		for range depth {
			span *= per
		}
		if rest >= span*per {
			rest -= span * per
			continue
		}
		ptr := le.Uint32(i.block[(12+depth)*4:])
		for ; span > 0 && ptr != 0; span /= per {
			p, err := i.f.block(uint64(ptr))
			if err != nil {
				return one, fmt.Errorf("map of inode %d: %w", i.n, err)
			}
			ptr = le.Uint32(p[rest/span%per*4:])
		}
		return i.place(one, ptr)
	}
	return one, tree.Damaged("inode %d is too large", i.n)
}

func (i *inode) place(e tree.Extent, block uint32) (tree.Extent, error) {
	if block == 0 {
		return e, nil
	}
	if uint64(block) >= i.f.blocks {
		return e, tree.Damaged("inode %d has block %d of %d", i.n, block, i.f.blocks)
	}
	e.Disk = int64(block) * i.f.blockSize
	return e, nil
}

// extents finds bytes by ext4's tree of extents. The extent found last is
// remembered, because files are read from their beginning to their end.
type extents struct {
	i    *inode
	last tree.Extent
}

const (
	extentMagic = 0xf30a
	maxDepth    = 5
	initLen     = 32768 // longer extents were never written and read as zeroes
)

func (x *extents) find(off int64) (tree.Extent, error) {
	if off >= x.last.At && off < x.last.At+x.last.Len {
		return x.last, nil
	}
	block, limit := uint64(off/x.i.f.blockSize), uint64(1)<<32
	node := x.i.block[:]
	depth := -1
	for range maxDepth + 1 {
		n, d, err := header(node, depth)
		if err != nil {
			return tree.Extent{}, fmt.Errorf("map of inode %d: %w", x.i.n, err)
		}
		if depth = d; depth == 0 {
			x.last, err = x.leaf(node, n, block, limit)
			return x.last, err
		}
		child := uint64(0)
		for e := range n {
			p := node[12+12*e:]
			from := uint64(le.Uint32(p))
			if from > block {
				limit = min(limit, from)
				break
			}
			child = uint64(le.Uint32(p[4:])) | uint64(le.Uint16(p[8:]))<<32
		}
		if child == 0 { // before the first entry: a hole
			return x.hole(block, block, limit), nil
		}
		if node, err = x.i.f.block(child); err != nil {
			return tree.Extent{}, fmt.Errorf("map of inode %d: %w", x.i.n, err)
		}
	}
	return tree.Extent{}, tree.Damaged("the map of inode %d is too deep", x.i.n)
}

// header checks a node's; its depth must be one less than its parent's.
func header(p []byte, parent int) (entries, depth int, err error) {
	entries, depth = int(le.Uint16(p[2:])), int(le.Uint16(p[6:]))
	if le.Uint16(p) != extentMagic || 12+12*entries > len(p) || depth > maxDepth || parent >= 0 && depth != parent-1 {
		return 0, 0, tree.Damaged("a node of an extent tree")
	}
	return entries, depth, nil
}

func (x *extents) leaf(p []byte, n int, block, limit uint64) (tree.Extent, error) {
	from := uint64(0)
	for e := range n {
		q := p[12+12*e:]
		at, count := uint64(le.Uint32(q)), uint64(le.Uint16(q[4:]))
		if at > block {
			limit = min(limit, at)
			break
		}
		unwritten := count > initLen
		if unwritten {
			count -= initLen
		}
		if block >= at+count {
			from = at + count
			continue
		}
		out := tree.Extent{At: int64(at) * x.i.f.blockSize, Len: int64(count) * x.i.f.blockSize, Disk: -1}
		if unwritten {
			return out, nil
		}
		disk := uint64(le.Uint32(q[8:])) | uint64(le.Uint16(q[6:]))<<32
		if disk == 0 || disk+count > x.i.f.blocks {
			return out, tree.Damaged("inode %d has blocks %d to %d of %d", x.i.n, disk, disk+count, x.i.f.blocks)
		}
		out.Disk = int64(disk) * x.i.f.blockSize
		return out, nil
	}
	return x.hole(min(from, block), block, limit), nil
}

func (x *extents) hole(from, block, limit uint64) tree.Extent {
	limit = max(limit, block+1)
	return tree.Extent{At: int64(from) * x.i.f.blockSize, Len: int64(limit-from) * x.i.f.blockSize, Disk: -1}
}
