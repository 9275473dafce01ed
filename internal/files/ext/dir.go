package ext

import (
	"fmt"
	"io"
	"io/fs"

	"github.com/rephub/rephub/internal/files/tree"
)

// Lookup implements tree.Node.
func (i *inode) Lookup(name string) (tree.Node, error) {
	return tree.Find(i, func(s string) bool { return s == name })
}

// List implements tree.Node. The index of a large directory lies in entries of
// inode 0, so reading all blocks finds all names, whatever the index says.
func (i *inode) List(visit func(string, func() (tree.Node, error)) error) error {
	if !i.is(fs.ModeDir) {
		return tree.ErrNotDir
	}
	if i.flags&flagEncrypt != 0 {
		return tree.Unsupported("it is encrypted by the guest")
	}
	if i.flags&flagInline != 0 {
		return i.listInline(visit)
	}
	c, err := i.content()
	if err != nil {
		return err
	}
	if i.stat.Size%i.f.blockSize != 0 || i.stat.Size/i.f.blockSize > int64(i.f.blocks) {
		return tree.Damaged("directory %d has %d bytes", i.n, i.stat.Size)
	}
	p := make([]byte, i.f.blockSize)
	for off := int64(0); off < i.stat.Size; off += i.f.blockSize {
		if _, err := c.ReadAt(p, off); err != nil && err != io.EOF {
			return fmt.Errorf("directory %d: %w", i.n, err)
		}
		if le.Uint32(p) == 0 && le.Uint16(p[4:]) == 0 {
			continue // a hole
		}
		if err := i.entries(p, visit); err != nil {
			return err
		}
	}
	return nil
}

// listInline lists a directory that lies in its inode: 4 bytes for the parent,
// then entries, then more of them in the attribute.
func (i *inode) listInline(visit func(string, func() (tree.Node, error)) error) error {
	if err := i.entries(i.block[4:], visit); err != nil {
		return err
	}
	if i.stat.Size <= int64(len(i.block)) {
		return nil
	}
	return i.entries(i.inlineRest(), visit)
}

// entries visits the names in a block of a directory.
func (i *inode) entries(p []byte, visit func(string, func() (tree.Node, error)) error) error {
	for len(p) >= 8 {
		n, size, nameLen := le.Uint32(p), int(le.Uint16(p[4:])), int(p[6])
		if size == 0xffff || size == 0 && i.f.blockSize == 64<<10 {
			size = 64 << 10 // what 16 bits cannot hold
		}
		if size < 8 || size > len(p) || nameLen > size-8 {
			return tree.Damaged("an entry of directory %d", i.n)
		}
		name := string(p[8 : 8+nameLen])
		p = p[size:]
		if n == 0 || name == "" || name == "." || name == ".." {
			continue
		}
		if err := visit(name, func() (tree.Node, error) { return i.f.node(n) }); err != nil {
			return err
		}
	}
	return nil
}
