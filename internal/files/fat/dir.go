package fat

import (
	"errors"
	"io/fs"
	"strings"
	"unicode/utf16"

	"github.com/rephub/rephub/internal/files/tree"
)

const (
	entrySize  = 32
	maxEntries = 1 << 21 // in a directory, as in the specification and then some

	attrLabel = 0x08
	attrDir   = 0x10
	attrRO    = 0x01
	attrLong  = 0x0f
)

// List implements tree.Node.
func (n *node) List(visit func(string, func() (tree.Node, error)) error) error {
	if !n.dir {
		return tree.ErrNotDir
	}
	find := (&chain{f: n.f, first: n.first}).find
	size := int64(maxEntries * entrySize)
	if n.root && n.f.bits != 32 {
		size = n.f.rootSize
		find = func(int64) (tree.Extent, error) { return tree.Extent{Len: n.f.rootSize, Disk: n.f.root}, nil }
	}
	m := &tree.Mapped{Device: n.f.dev, Size: size, Find: find}
	var long longName
	for off := int64(0); off < size; off += entrySize {
		var p [entrySize]byte
		_, err := m.ReadAt(p[:], off)
		if errors.Is(err, errShort) {
			return nil // a directory is as long as its chain
		}
		if err != nil {
			return err
		}
		switch {
		case p[0] == 0:
			return nil
		case p[0] == 0xe5:
			long = longName{}
			continue
		case p[11]&0x3f == attrLong:
			long.add(p[:])
			continue
		}
		name := long.name(p[:])
		long = longName{}
		if p[11]&attrLabel != 0 || name == "." || name == ".." || name == "" {
			continue
		}
		entry, at := p, off
		if err := visit(name, func() (tree.Node, error) { return n.child(entry[:], at), nil }); err != nil {
			return err
		}
	}
	return nil
}

// child is the file of an entry at byte at of its directory.
func (n *node) child(p []byte, at int64) tree.Node {
	c := &node{f: n.f, first: uint32(le.Uint16(p[26:]))}
	if n.f.bits == 32 {
		c.first |= uint32(le.Uint16(p[20:])) & 0x0fff << 16
	}
	c.stat = tree.Stat{Mode: 0o644, Size: int64(le.Uint32(p[28:])), ModTime: stamp(le.Uint16(p[24:]), le.Uint16(p[22:]))}
	if p[11]&attrRO != 0 {
		c.stat.Mode = 0o444
	}
	if p[11]&attrDir != 0 {
		c.dir = true
		c.stat.Mode, c.stat.Size = fs.ModeDir|0o755, 0
	}
	c.stat.ID = uint64(c.first)
	if c.first == 0 { // it is empty, and known by its entry
		c.stat.ID = 1<<63 | uint64(n.first)<<32 | uint64(at/entrySize)
	}
	return c
}

// longName gathers the pieces of a long name, which come last first.
type longName struct {
	units []uint16
	sum   byte
	next  byte // number of the piece that is to come
}

func (l *longName) add(p []byte) {
	n := p[0] & 0x3f
	if p[0]&0x40 != 0 {
		*l = longName{sum: p[13], next: n}
	}
	if n == 0 || n != l.next || p[13] != l.sum {
		*l = longName{}
		return
	}
	piece := make([]uint16, 0, 13+len(l.units))
	for _, r := range [][2]int{{1, 11}, {14, 26}, {28, 32}} {
		for i := r[0]; i < r[1]; i += 2 {
			piece = append(piece, le.Uint16(p[i:]))
		}
	}
	l.units = append(piece, l.units...)
	l.next--
}

// name is the long name if it belongs to the entry p, else the short one.
func (l *longName) name(p []byte) string {
	var sum byte
	for _, c := range p[:11] {
		sum = sum>>1 | sum<<7
		sum += c
	}
	if len(l.units) == 0 || l.next != 0 || l.sum != sum {
		return shortName(p)
	}
	units := l.units
	for i, u := range units {
		if u == 0 {
			units = units[:i]
			break
		}
	}
	return string(utf16.Decode(units))
}

// shortName is a name of 8.3 letters; the bits of Windows NT make them small.
func shortName(p []byte) string {
	b := append([]byte(nil), p[:11]...)
	if b[0] == 0x05 {
		b[0] = 0xe5
	}
	base, ext := oem(b[:8]), oem(b[8:])
	if p[12]&0x08 != 0 {
		base = strings.ToLower(base)
	}
	if p[12]&0x10 != 0 {
		ext = strings.ToLower(ext)
	}
	if ext != "" {
		base += "." + ext
	}
	return base
}

// oem reads letters of a code page that is not recorded: what is not ASCII is
// shown as Latin 1.
func oem(p []byte) string {
	r := make([]rune, len(p))
	for i, c := range p {
		r[i] = rune(c)
	}
	return strings.TrimRight(string(r), " ")
}
