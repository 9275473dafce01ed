package xfs

import (
	"fmt"
	"io"
	"io/fs"

	"github.com/rephub/rephub/internal/files/tree"
)

// Magics of blocks of directories, and where a directory's index begins.
const (
	dirBlock2  = 0x58443242 // XD2B
	dirBlock3  = 0x58444233 // XDB3
	dirData2   = 0x58443244 // XD2D
	dirData3   = 0x58444433 // XDD3
	dirHeader2 = 16
	dirHeader3 = 64
	dirIndex   = 32 << 30
)

// Lookup implements tree.Node.
func (i *inode) Lookup(name string) (tree.Node, error) {
	return tree.Find(i, func(s string) bool { return s == name })
}

// List implements tree.Node.
func (i *inode) List(visit func(string, func() (tree.Node, error)) error) error {
	if !i.is(fs.ModeDir) {
		return tree.ErrNotDir
	}
	if i.format == formatLocal {
		return i.listShort(visit)
	}
	m, err := i.mapped(dirIndex)
	if err != nil {
		return err
	}
	p := make([]byte, i.f.dirBlock)
	for off := int64(0); off < min(i.stat.Size, dirIndex); {
		e, err := m.Find(off)
		if err != nil {
			return err
		}
		if e.Disk < 0 {
			off = max((e.At+e.Len)/i.f.dirBlock*i.f.dirBlock, off+i.f.dirBlock)
			continue
		}
		if _, err := m.ReadAt(p, off); err != nil && err != io.EOF {
			return fmt.Errorf("directory %d: %w", i.n, err)
		}
		if err := i.entries(p, visit); err != nil {
			return err
		}
		off += i.f.dirBlock
	}
	return nil
}

// listShort lists a directory that lies in its inode.
func (i *inode) listShort(visit func(string, func() (tree.Node, error)) error) error {
	p := i.data
	if len(p) < 6 {
		return tree.Damaged("directory %d", i.n)
	}
	n, wide := int(p[0]), 4
	if p[1] != 0 {
		n, wide = max(n, int(p[1])), 8
	}
	p = p[min(2+wide, len(p)):]
	extra := 0
	if i.f.ftype {
		extra = 1
	}
	for range n {
		if len(p) < 3 || len(p) < 3+int(p[0])+extra+wide {
			return tree.Damaged("directory %d", i.n)
		}
		name := string(p[3 : 3+int(p[0])])
		p = p[3+len(name)+extra:]
		ino := uint64(be.Uint32(p))
		if wide == 8 {
			ino = be.Uint64(p)
		}
		p = p[wide:]
		if err := visit(name, func() (tree.Node, error) { return i.f.node(ino) }); err != nil {
			return err
		}
	}
	return nil
}

// entries visits the names in a block of a directory.
func (i *inode) entries(p []byte, visit func(string, func() (tree.Node, error)) error) error {
	header, end := dirHeader2, len(p)
	switch magic := be.Uint32(p); {
	case !i.f.v5 && magic == dirData2:
	case i.f.v5 && magic == dirData3:
		header = dirHeader3
	case !i.f.v5 && magic == dirBlock2, i.f.v5 && magic == dirBlock3:
		if i.f.v5 {
			header = dirHeader3
		}
		// The index of a directory of one block is at its end.
		leaves := int64(be.Uint32(p[len(p)-8:]))
		if leaves > int64(len(p)-header-8)/8 {
			return tree.Damaged("directory %d", i.n)
		}
		end = len(p) - 8 - int(leaves)*8
	default:
		return tree.Damaged("a block of directory %d", i.n)
	}
	for p = p[header:end]; len(p) >= 8; {
		if be.Uint16(p) == 0xffff { // free
			n := int(be.Uint16(p[2:]))
			if n < 8 || n > len(p) {
				return tree.Damaged("directory %d", i.n)
			}
			p = p[n:]
			continue
		}
		if len(p) < 12 {
			return tree.Damaged("directory %d", i.n)
		}
		size := 8 + 1 + int(p[8]) + 2
		if i.f.ftype {
			size++
		}
		if size = (size + 7) &^ 7; size > len(p) || p[8] == 0 {
			return tree.Damaged("directory %d", i.n)
		}
		ino, name := be.Uint64(p), string(p[9:9+int(p[8])])
		p = p[size:]
		if name == "." || name == ".." {
			continue
		}
		if err := visit(name, func() (tree.Node, error) { return i.f.node(ino) }); err != nil {
			return err
		}
	}
	return nil
}
