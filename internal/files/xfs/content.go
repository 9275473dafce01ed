package xfs

import (
	"fmt"
	"io"
	"io/fs"

	"github.com/rephub/rephub/internal/files/tree"
)

// maxLink bounds a symbolic link's target, in bytes.
const maxLink = 1024

// Open implements tree.Node.
func (i *inode) Open() (io.ReaderAt, error) {
	if !i.is(0) {
		return nil, tree.ErrNotFile
	}
	return i.mapped(i.stat.Size)
}

// mapped is the content that the data fork maps.
func (i *inode) mapped(size int64) (*tree.Mapped, error) {
	if i.flags&flagRealtime != 0 {
		return nil, tree.Unsupported("it is in the realtime section")
	}
	m := &tree.Mapped{Device: i.f.dev, Size: size}
	switch i.format {
	case formatExtents:
		if i.count > uint64(len(i.data)/16) {
			return nil, tree.Damaged("inode %d has %d extents", i.n, i.count)
		}
		m.Find = (&mapping{i: i, records: i.data[:i.count*16]}).find
	case formatBtree:
		m.Find = (&mapping{i: i}).find
	default:
		return nil, tree.Damaged("inode %d has data in format %d", i.n, i.format)
	}
	return m, nil
}

// Readlink implements tree.Node.
func (i *inode) Readlink() (string, error) {
	if !i.is(fs.ModeSymlink) {
		return "", fmt.Errorf("read link: %w", tree.ErrNotFile)
	}
	if i.stat.Size > maxLink {
		return "", tree.Damaged("symbolic link %d has %d bytes", i.n, i.stat.Size)
	}
	if i.format == formatLocal {
		if i.stat.Size > int64(len(i.data)) {
			return "", tree.Damaged("symbolic link %d", i.n)
		}
		return string(i.data[:i.stat.Size]), nil
	}
	m, err := i.mapped(1 << 20)
	if err != nil {
		return "", err
	}
	// Version 5 begins each block with a header of 56 bytes.
	header := int64(0)
	if i.f.v5 {
		header = 56
	}
	var target []byte
	for off := int64(0); int64(len(target)) < i.stat.Size; off += i.f.blockSize {
		p := make([]byte, min(i.f.blockSize-header, i.stat.Size-int64(len(target))))
		if _, err := m.ReadAt(p, off+header); err != nil && err != io.EOF {
			return "", err
		}
		target = append(target, p...)
	}
	return string(target), nil
}

// mapping finds a file's extents, in its inode or in its tree. The leaf found
// last is remembered, because files are read from their beginning to their end.
type mapping struct {
	i       *inode
	records []byte // 16 bytes each, of all or of one leaf
	from    uint64 // the blocks that the leaf speaks of
	to      uint64
}

const (
	bmapMagic  = 0x424d4150
	bmap3Magic = 0x424d4133
	maxLevel   = 9
	maxBlock   = 1 << 54 // blocks of a file
)

func (m *mapping) find(off int64) (tree.Extent, error) {
	block := uint64(off / m.i.f.blockSize)
	switch {
	case m.i.format == formatExtents:
		m.to = maxBlock
	case m.records == nil || block < m.from || block >= m.to:
		if err := m.leaf(block); err != nil {
			return tree.Extent{}, fmt.Errorf("map of inode %d: %w", m.i.n, err)
		}
	}
	return m.search(block)
}

// search looks for a block in the records at hand.
func (m *mapping) search(block uint64) (tree.Extent, error) {
	bs := m.i.f.blockSize
	from, to := m.from, m.to
	lo, hi := 0, len(m.records)/16 // the first record that begins after block
	for lo < hi {
		mid := (lo + hi) / 2
		if start, _, _, _ := record(m.records[mid*16:]); start > block {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	if lo < len(m.records)/16 {
		to, _, _, _ = record(m.records[lo*16:])
	}
	if lo > 0 {
		start, disk, count, unwritten := record(m.records[(lo-1)*16:])
		if block < start+count {
			e := tree.Extent{At: int64(start) * bs, Len: int64(count) * bs, Disk: -1}
			if unwritten {
				return e, nil
			}
			at, err := m.i.f.offset(disk)
			if err != nil {
				return e, fmt.Errorf("inode %d: %w", m.i.n, err)
			}
			if disk&(1<<m.i.f.agLog-1)+count > m.i.f.agBlocks {
				return e, tree.Damaged("inode %d has an extent of %d blocks", m.i.n, count)
			}
			e.Disk = at
			return e, nil
		}
		from = max(from, start+count)
	}
	if from > block || to <= block {
		return tree.Extent{}, tree.Damaged("the map of inode %d is out of order", m.i.n)
	}
	to = min(to, maxBlock)
	return tree.Extent{At: int64(from) * bs, Len: min(int64(to-from), 1<<40) * bs, Disk: -1}, nil
}

// record is an extent: first block in the file, on the device, how many.
func record(p []byte) (start, disk, count uint64, unwritten bool) {
	a, b := be.Uint64(p), be.Uint64(p[8:])
	return a >> 9 & (1<<54 - 1), a&0x1ff<<43 | b>>21, b & (1<<21 - 1), a>>63 != 0
}

// leaf goes down to the leaf that speaks of block.
func (m *mapping) leaf(block uint64) error {
	p := m.i.data
	if len(p) < 4 {
		return tree.Damaged("no root")
	}
	level, n := be.Uint16(p), int(be.Uint16(p[2:]))
	room := (len(p) - 4) / 16
	keys := p[4:]
	m.from, m.to = 0, maxBlock
	if level == 0 || level > maxLevel {
		return tree.Damaged("a root of level %d", level)
	}
	for {
		if n == 0 || n > room {
			return tree.Damaged("a node with %d keys", n)
		}
		child := 0
		for k := range n {
			start := be.Uint64(keys[k*8:])
			if start > block {
				m.to = min(m.to, start)
				break
			}
			child = k
			m.from = max(m.from, start)
		}
		if be.Uint64(keys) > block {
			m.from = 0 // before the first key is a hole
		}
		at, err := m.i.f.offset(be.Uint64(keys[room*8+child*8:]))
		if err != nil {
			return err
		}
		p = make([]byte, m.i.f.blockSize)
		if err := tree.ReadFull(m.i.f.dev, p, at); err != nil {
			return err
		}
		magic, header := uint32(bmapMagic), 24
		if m.i.f.v5 {
			magic, header = bmap3Magic, 72
		}
		level--
		if be.Uint32(p) != magic || be.Uint16(p[4:]) != level {
			return tree.Damaged("a node at byte %d", at)
		}
		n = int(be.Uint16(p[6:]))
		room = (len(p) - header) / 16
		if keys = p[header:]; level == 0 {
			if n > room {
				return tree.Damaged("a leaf with %d records", n)
			}
			m.records = keys[:n*16]
			return nil
		}
	}
}
