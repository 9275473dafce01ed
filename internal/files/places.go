package files

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rephub/rephub/internal/files/ext"
	"github.com/rephub/rephub/internal/files/fat"
	"github.com/rephub/rephub/internal/files/ntfs"
	"github.com/rephub/rephub/internal/files/tree"
	"github.com/rephub/rephub/internal/files/volume"
	"github.com/rephub/rephub/internal/files/xfs"
)

// disk is a volume to look at.
type disk struct {
	Name string // VM/NODE
	dev  tree.Device
}

// found is a place with what is in it.
type found struct {
	Place
	fs  tree.FS // when it can be read
	err error   // why it cannot
}

// readers are the file systems that we know, in the order of asking.
var readers = []struct {
	name  string
	probe func(tree.Device) bool
	open  func(tree.Device) (tree.FS, error)
}{
	{"xfs", xfs.Probe, func(d tree.Device) (tree.FS, error) { return nilOr(xfs.Open(d)) }},
	{"ext", ext.Probe, func(d tree.Device) (tree.FS, error) { return nilOr(ext.Open(d)) }},
	{"ntfs", ntfs.Probe, func(d tree.Device) (tree.FS, error) { return nilOr(ntfs.Open(d)) }},
	{"vfat", fat.Probe, func(d tree.Device) (tree.FS, error) { return nilOr(fat.Open(d)) }},
}

// nilOr keeps a nil pointer from being an interface that is not nil.
func nilOr[T tree.FS](f T, err error) (tree.FS, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}

// others are what we can name and not read.
var others = []struct {
	at    int64
	magic string
	name  string
	note  string
}{
	{0, "LUKS\xba\xbe", "LUKS", "it is encrypted by the guest"},
	{3, "-FVE-FS-", "BitLocker", "it is encrypted by the guest"},
	{4086, "SWAPSPACE2", "swap", "swap space"},
	{0x10040, "_BHRfS_M", "btrfs", "btrfs cannot be read here"},
	{0x1018, "\xfc\x4e\x2b\xa9", "RAID", "a member of a software RAID"},
	{0x1000, "\xfc\x4e\x2b\xa9", "RAID", "a member of a software RAID"},
	{0x8001, "CD001", "iso9660", "ISO 9660 cannot be read here"},
	{3, "EXFAT   ", "exfat", "exFAT cannot be read here"},
	{0, "\x10\x20\xf5\xf2", "f2fs", "f2fs cannot be read here"},
	{3, "\x00\x00\x00\x00ReFS", "refs", "ReFS cannot be read here"},
}

// scanner looks at the disks of one group.
type scanner struct {
	places   []*found
	physical map[string][]*volume.Physical // by VM
}

// scan finds all places, in the order of the disks, then the logical volumes.
// Damage in one does not hide the others.
func scan(disks []disk) []*found {
	s := &scanner{physical: map[string][]*volume.Physical{}}
	for _, d := range disks {
		s.disk(d)
	}
	for _, vm := range slices.Sorted(maps.Keys(s.physical)) {
		for _, l := range volume.Assemble(s.physical[vm]) {
			p := &found{Place: Place{Name: vm + ":" + l.Group + "/" + l.Name, Kind: "logical volume", Size: l.Size}}
			if l.Err != nil {
				p.cannot(l.Err)
			} else {
				s.look(p, l.Device, vm, false)
			}
			s.places = append(s.places, p)
		}
	}
	return s.places
}

func (s *scanner) disk(d disk) {
	vm, _, _ := strings.Cut(d.Name, "/")
	whole := &found{Place: Place{Name: d.Name, Kind: "volume", Size: d.dev.Size()}}
	s.places = append(s.places, whole)
	if s.look(whole, d.dev, vm, true) {
		return
	}
	parts, ok, err := volume.Partitions(d.dev)
	switch {
	case err != nil:
		whole.Type = "partitions"
		whole.cannot(fmt.Errorf("the partition table: %w", err))
		return
	case !ok:
		return
	}
	whole.Type, whole.Note = "partitions", ""
	for _, part := range parts {
		p := &found{Place: Place{Name: fmt.Sprintf("%s:%d", d.Name, part.Number), Kind: "partition", Size: part.Device.Size()}}
		p.Label = part.Name
		s.look(p, part.Device, vm, true)
		s.places = append(s.places, p)
	}
}

// look says what is in a place; false when nothing is known of it.
func (s *scanner) look(p *found, dev tree.Device, vm string, lvm bool) (known bool) {
	defer func() {
		if r := recover(); r != nil { // a reader that trips over one place must not hide the others
			known = true
			p.cannot(tree.Damaged("its reader failed: %v", r))
		}
	}()
	for _, r := range readers {
		if !r.probe(dev) {
			continue
		}
		p.Type = r.name
		f, err := r.open(dev)
		if err != nil {
			p.cannot(err)
			return true
		}
		i := f.Info()
		p.fs, p.Readable, p.Type, p.UUID = f, true, i.Type, i.UUID
		p.Note = strings.Join(i.Notes, "; ")
		if i.Label != "" {
			p.Label = i.Label
		}
		return true
	}
	if lvm && volume.ProbeLVM(dev) {
		p.Type = "LVM2"
		v, err := volume.OpenPhysical(dev)
		if err != nil {
			p.cannot(err)
			return true
		}
		p.Note = "physical volume of " + v.Group()
		if v.Group() == "" {
			p.Note = "physical volume without a group"
		}
		s.physical[vm] = append(s.physical[vm], v)
		return true
	}
	for _, o := range others {
		b := make([]byte, len(o.magic))
		if tree.ReadFull(dev, b, o.at) == nil && string(b) == o.magic {
			p.Type, p.Note = o.name, o.note
			p.err = tree.Unsupported("%s", o.note)
			return true
		}
	}
	p.Type, p.Note = "unknown", "no file system that is known here"
	return false
}

func (p *found) cannot(err error) {
	p.err = err
	var damage *tree.DamageError
	if p.Note = err.Error(); errors.As(err, &damage) {
		p.Note = "the file system is " + p.Note
	}
}
