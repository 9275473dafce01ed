package volume

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/rephub/rephub/internal/files/tree"
)

// The format of LVM2 is that of lib/format_text/layout.h in its source.
const (
	mdaMagic  = " LVM2 x[5A%r0N*>"
	mdaHeader = 512
	maxText   = 16 << 20 // bytes of a volume group's text
)

// Physical is a device that LVM has taken.
type Physical struct {
	ID     string // 32 letters
	Device tree.Device
	group  section // newest text that it holds; nil without
	name   string
}

// Logical is a logical volume.
type Logical struct {
	Group, Name string
	Size        int64
	Device      tree.Device // nil when it cannot be read
	Err         error       // why
}

// ProbeLVM says whether a device belongs to LVM.
func ProbeLVM(dev tree.Device) bool {
	_, err := label(dev)
	return err == nil
}

// label finds the sector that names a device's identity.
func label(dev tree.Device) ([]byte, error) {
	for n := range int64(4) {
		p := make([]byte, sector)
		if err := tree.ReadFull(dev, p, n*sector); err != nil {
			return nil, err
		}
		if string(p[:8]) == "LABELONE" && string(p[24:32]) == "LVM2 001" && le.Uint64(p[8:]) == uint64(n) {
			if at := le.Uint32(p[20:]); at < 32 || at > sector-40 {
				return nil, tree.Damaged("LVM's label")
			}
			return p, nil
		}
	}
	return nil, tree.Damaged("no LVM label")
}

// OpenPhysical reads what a device knows of its volume group.
func OpenPhysical(dev tree.Device) (*Physical, error) {
	l, err := label(dev)
	if err != nil {
		return nil, err
	}
	p := l[le.Uint32(l[20:]):]
	v := &Physical{ID: string(p[:32]), Device: dev}
	p = p[40:]
	lists := 0
	for lists < 2 && len(p) >= 16 {
		off, size := int64(le.Uint64(p)), int64(le.Uint64(p[8:]))
		p = p[16:]
		if off == 0 {
			lists++
			continue
		}
		if lists == 1 {
			if err := v.metadata(off, size); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// metadata reads the area of texts at off.
func (v *Physical) metadata(off, size int64) error {
	h := make([]byte, mdaHeader)
	if err := tree.ReadFull(v.Device, h, off); err != nil {
		return err
	}
	if string(h[4:20]) != mdaMagic || size < 2*mdaHeader {
		return tree.Damaged("LVM's metadata")
	}
	at, n := int64(le.Uint64(h[40:])), int64(le.Uint64(h[48:]))
	if at == 0 || le.Uint32(h[60:])&1 != 0 {
		return nil // there is no group yet, or this area is not used
	}
	if at < mdaHeader || at >= size || n <= 0 || n > maxText || n > size-mdaHeader {
		return tree.Damaged("LVM's metadata")
	}
	text := make([]byte, n)
	first := min(n, size-at) // it goes round, behind the header
	if err := tree.ReadFull(v.Device, text[:first], off+at); err != nil {
		return err
	}
	if err := tree.ReadFull(v.Device, text[first:], off+mdaHeader); err != nil {
		return err
	}
	s, err := parse(strings.TrimRight(string(text), "\x00"))
	if err != nil {
		return err
	}
	for name, g := range s {
		if g, ok := g.(section); ok && (v.group == nil || g.number("seqno") > v.group.number("seqno")) {
			v.group, v.name = g, name
		}
	}
	return nil
}

// Group is the volume group that a device says it belongs to; "" for none.
func (v *Physical) Group() string { return v.name }

// Assemble finds the logical volumes on the physical volumes of one machine.
func Assemble(all []*Physical) (out []Logical) {
	groups := map[string]*Physical{} // by identity, the one that knows most
	byID := map[string]*Physical{}
	for _, v := range all {
		byID[v.ID] = v
		if v.group == nil {
			continue
		}
		id := v.group.text("id")
		if old := groups[id]; old == nil || v.group.number("seqno") > old.group.number("seqno") {
			groups[id] = v
		}
	}
	for _, v := range groups {
		lvs := v.group.sub("logical_volumes")
		for _, name := range slices.Sorted(maps.Keys(lvs)) {
			lv, ok := lvs[name].(section)
			if !ok || !slices.Contains(lv.list("status"), any("VISIBLE")) {
				continue
			}
			l := Logical{Group: v.name, Name: name}
			m, err := assemble(v.group, lv, byID)
			if l.Err = err; err == nil {
				l.Device = m
			}
			l.Size = lvSize(v.group, lv)
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b Logical) int { return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Name, b.Name)) })
	return out
}

const maxExtents = 1 << 40

func lvSize(group, lv section) (n int64) {
	for name, s := range lv {
		if s, ok := s.(section); ok && strings.HasPrefix(name, "segment") {
			n += min(max(s.number("extent_count"), 0), maxExtents)
		}
	}
	return min(n, 1<<62/max(group.number("extent_size")*sector, 1)) * group.number("extent_size") * sector
}

// striped is a logical volume: pieces one after the other, each on one or more
// devices in stripes.
type striped struct {
	size   int64
	pieces []piece
}

type piece struct {
	from, n int64 // in the logical volume, bytes
	stripe  int64 // bytes; n with one device
	on      []tree.Device
}

func assemble(group, lv section, byID map[string]*Physical) (*striped, error) {
	extent := group.number("extent_size") * sector
	if extent <= 0 || extent > 1<<40 {
		return nil, tree.Damaged("extents of %d bytes", extent)
	}
	m := &striped{}
	for name, v := range lv {
		s, ok := v.(section)
		if !ok || !strings.HasPrefix(name, "segment") {
			continue
		}
		if kind := s.text("type"); kind != "striped" && kind != "linear" {
			return nil, tree.Unsupported("logical volumes of type %q cannot be read here", kind)
		}
		p, err := assemblePiece(group, s, byID, extent)
		if err != nil {
			return nil, err
		}
		m.pieces = append(m.pieces, p)
	}
	slices.SortFunc(m.pieces, func(a, b piece) int { return cmp.Compare(a.from, b.from) })
	for _, p := range m.pieces {
		if p.from != m.size {
			return nil, tree.Damaged("the segments of a logical volume do not follow each other")
		}
		m.size += p.n
	}
	return m, nil
}

func assemblePiece(group, s section, byID map[string]*Physical, extent int64) (piece, error) {
	stripes := s.list("stripes")
	start, count := s.number("start_extent"), s.number("extent_count")
	n := int64(len(stripes) / 2)
	if n == 0 || n != max(s.number("stripe_count"), 1) || count <= 0 || start < 0 || count > 1<<62/extent || start > 1<<62/extent-count || count%n != 0 {
		return piece{}, tree.Damaged("a segment of a logical volume")
	}
	p := piece{from: start * extent, n: count * extent, stripe: count * extent}
	if n > 1 {
		if p.stripe = s.number("stripe_size") * sector; p.stripe <= 0 || p.stripe > extent || extent%p.stripe != 0 {
			return p, tree.Damaged("stripes of %d bytes", p.stripe)
		}
	}
	for i := range n {
		name, ok := stripes[2*i].(string)
		first, ok2 := stripes[2*i+1].(int64)
		pv := group.sub("physical_volumes").sub(name)
		if !ok || !ok2 || pv == nil || first < 0 {
			return p, tree.Damaged("a stripe of a logical volume")
		}
		dev := byID[strings.ReplaceAll(pv.text("id"), "-", "")]
		if dev == nil {
			return p, tree.Unsupported("its physical volume %s is not among the volumes that are protected", pv.text("device"))
		}
		size, at := p.n/n, pv.number("pe_start")
		if at < 0 || at > 1<<40 || first > (1<<62-at*sector)/extent || at*sector+first*extent > dev.Device.Size()-size {
			return p, tree.Damaged("a segment of a logical volume is beyond the end of its physical volume")
		}
		p.on = append(p.on, tree.Section(dev.Device, at*sector+first*extent, size))
	}
	return p, nil
}

// Size implements tree.Device.
func (m *striped) Size() int64 { return m.size }

// ReadAt implements io.ReaderAt.
func (m *striped) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		at := off + int64(n)
		i := sort.Search(len(m.pieces), func(i int) bool { return m.pieces[i].from+m.pieces[i].n > at })
		if at < 0 || i == len(m.pieces) {
			return n, io.EOF
		}
		s := m.pieces[i]
		in := at - s.from
		row, within := in/s.stripe, in%s.stripe
		devs := int64(len(s.on))
		part := p[n:]
		part = part[:min(int64(len(part)), s.stripe-within)]
		if err := tree.ReadFull(s.on[row%devs], part, row/devs*s.stripe+within); err != nil {
			return n, fmt.Errorf("logical volume: %w", err)
		}
		n += len(part)
	}
	return n, nil
}
