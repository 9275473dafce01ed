package ntfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/rephub/rephub/internal/files/tree"
)

// Reparse points that we know ([MS-FSCC] 2.1.2.1).
const (
	tagJunction = 0xa0000003
	tagSymlink  = 0xa000000c
	tagPacked   = 0x80000017 // WOF: compressed by the system
	tagDedup    = 0x80000013

	maxReparse = 16 << 10
	maxIndex   = 1 << 20 // blocks of a directory's index
)

// node is a file.
type node struct {
	*file
	stat    tree.Stat
	reparse []byte
}

// node opens the file of a reference; sequence 0 is any.
func (f *FS) node(n int64, sequence uint16) (tree.Node, error) {
	p, err := f.raw(n)
	if err != nil {
		return nil, err
	}
	if now := le.Uint16(p[16:]); sequence != 0 && now != sequence {
		return nil, tree.Damaged("record %d is of another file by now", n)
	}
	o, err := f.open(n)
	if err != nil {
		return nil, err
	}
	x := &node{file: o, stat: tree.Stat{Mode: 0o644, ID: uint64(n)}}
	if o.dir {
		x.stat.Mode = fs.ModeDir | 0o755
	}
	if s, err := o.stream(attrStandard, ""); err == nil && len(s.value) >= 36 {
		x.stat.ModTime = stamp(le.Uint64(s.value[8:]))
		if le.Uint32(s.value[32:])&1 != 0 {
			x.stat.Mode &^= 0o222
		}
	}
	if s, err := o.stream(attrData, ""); err == nil {
		x.stat.Size = s.size
	} else if !errors.Is(err, errNone) {
		return nil, err
	}
	if s, err := o.stream(attrReparse, ""); err == nil && s.size >= 8 && s.size <= maxReparse {
		x.reparse = make([]byte, s.size)
		if _, err := s.ReadAt(x.reparse, 0); err != nil && err != io.EOF {
			return nil, err
		}
		if tag := le.Uint32(x.reparse); tag == tagSymlink || tag == tagJunction {
			x.stat.Mode = fs.ModeSymlink | 0o777
		}
	}
	return x, nil
}

// stamp is 100 ns since 1601.
func stamp(v uint64) time.Time {
	const from1601 = 11644473600
	return time.Unix(int64(v/1e7)-from1601, int64(v%1e7)*100).UTC()
}

// Stat implements tree.Node.
func (x *node) Stat() tree.Stat { return x.stat }

// Open implements tree.Node.
func (x *node) Open() (io.ReaderAt, error) {
	if x.stat.Mode.Type() != 0 {
		return nil, tree.ErrNotFile
	}
	if x.reparse != nil {
		switch tag := le.Uint32(x.reparse); tag {
		case tagPacked:
			return nil, tree.Unsupported("Windows has compressed it (CompactOS)")
		case tagDedup:
			return nil, tree.Unsupported("Windows has deduplicated it")
		default:
			if x.stat.Size == 0 || tag&0xffff0fff == 0x9000001a {
				return nil, tree.Unsupported("its content is kept by a program of the guest (reparse tag %#x)", tag)
			}
		}
	}
	s, err := x.stream(attrData, "")
	if err != nil {
		return nil, err
	}
	if s.encrypted {
		return nil, tree.Unsupported("it is encrypted by the guest")
	}
	return s, nil
}

// Readlink implements tree.Node. The target is written with slashes, and
// without a drive's letter, which only the guest can tell the volume of.
func (x *node) Readlink() (string, error) {
	if x.stat.Mode.Type() != fs.ModeSymlink {
		return "", tree.ErrNotFile
	}
	p := x.reparse
	header := 16
	if le.Uint32(p) == tagSymlink {
		header = 20
	}
	if len(p) < header {
		return "", tree.Damaged("link %d", x.n)
	}
	name := func(at int) (string, bool) {
		from, n := header+int(le.Uint16(p[at:])), int(le.Uint16(p[at+2:]))
		if from+n > len(p) {
			return "", false
		}
		return text(p[from : from+n]), true
	}
	s, ok := name(12) // as shown to people
	if !ok || s == "" {
		if s, ok = name(8); !ok {
			return "", tree.Damaged("link %d", x.n)
		}
	}
	s = strings.ReplaceAll(strings.TrimPrefix(s, `\??\`), `\`, "/")
	if len(s) > 2 && s[1] == ':' && s[2] == '/' {
		s = s[2:]
	}
	return s, nil
}

// Lookup implements tree.Node: the name as it is, or else as Windows compares.
func (x *node) Lookup(name string) (tree.Node, error) {
	n, err := tree.Find(x, func(s string) bool { return s == name })
	if errors.Is(err, fs.ErrNotExist) {
		return tree.Find(x, func(s string) bool { return strings.EqualFold(s, name) })
	}
	return n, err
}

// List implements tree.Node.
func (x *node) List(visit func(string, func() (tree.Node, error)) error) error {
	if !x.stat.Mode.IsDir() {
		return tree.ErrNotDir
	}
	root, err := x.stream(attrIndexRoot, "$I30")
	if err != nil {
		return err
	}
	p := root.value
	if len(p) < 32 {
		return tree.Damaged("the index of directory %d", x.n)
	}
	i := &index{x: x, size: int64(le.Uint32(p[8:])), visit: visit, seen: map[int64]bool{}}
	if i.size < 512 || i.size > 64<<10 {
		return tree.Damaged("the index of directory %d has blocks of %d bytes", x.n, i.size)
	}
	if i.blocks, err = x.stream(attrIndex, "$I30"); err != nil && !errors.Is(err, errNone) {
		return err
	}
	return i.entries(p[16:], 0)
}

// index is a directory's tree of names.
type index struct {
	x      *node
	size   int64 // of a block, bytes
	blocks *stream
	visit  func(string, func() (tree.Node, error)) error
	seen   map[int64]bool
}

// entries visits the names of a node of the tree, and of those below it.
func (i *index) entries(p []byte, depth int) error {
	bad := tree.Damaged("the index of directory %d", i.x.n)
	from, to := int64(le.Uint32(p)), int64(le.Uint32(p[4:]))
	if from < 16 || to > int64(len(p)) || from > to || depth > 32 {
		return bad
	}
	for p = p[from:to]; ; {
		if len(p) < 16 {
			return bad
		}
		length, key, flags := int(le.Uint16(p[8:])), int(le.Uint16(p[10:])), le.Uint16(p[12:])
		if length < 16 || length > len(p) || flags&1 != 0 && length < 24 || 16+key > length {
			return bad
		}
		e := p[:length]
		p = p[length:]
		if flags&1 != 0 {
			if err := i.below(int64(le.Uint64(e[length-8:])), depth); err != nil {
				return err
			}
		}
		if flags&2 != 0 {
			return nil
		}
		if err := i.entry(le.Uint64(e), e[16:16+key]); err != nil {
			return err
		}
	}
}

func (i *index) entry(ref uint64, key []byte) error {
	if len(key) < 66 || 66+2*int(key[64]) > len(key) {
		return tree.Damaged("the index of directory %d", i.x.n)
	}
	n, sequence := int64(ref&(1<<48-1)), uint16(ref>>48)
	const shortOnly = 2
	if key[65] == shortOnly || n < firstUser && i.x.n == recordRoot {
		return nil
	}
	name := text(key[66 : 66+2*int(key[64])])
	return i.visit(name, func() (tree.Node, error) { return i.x.f.node(n, sequence) })
}

// below visits a block of the index. Blocks are numbered in clusters, or in
// sectors when a cluster is larger than a block.
func (i *index) below(vcn int64, depth int) error {
	unit := i.x.f.cluster
	if unit > i.size {
		unit = 512
	}
	if i.blocks == nil || i.seen[vcn] || len(i.seen) > maxIndex || vcn < 0 || vcn > 1<<40 {
		return tree.Damaged("the index of directory %d", i.x.n)
	}
	i.seen[vcn] = true
	p := make([]byte, i.size)
	if _, err := i.blocks.ReadAt(p, vcn*unit); err != nil {
		return fmt.Errorf("the index of directory %d: %w", i.x.n, err)
	}
	if string(p[:4]) != "INDX" || int64(le.Uint64(p[16:])) != vcn {
		return tree.Damaged("the index of directory %d", i.x.n)
	}
	if err := restore(p, fmt.Sprintf("the index of directory %d", i.x.n)); err != nil {
		return err
	}
	return i.entries(p[24:], depth+1)
}
