// Package volume finds what a disk is divided into: partitions of MBR and GPT,
// and LVM's logical volumes over the disks of one machine.
package volume

import (
	"encoding/binary"

	"github.com/rephub/rephub/internal/files/tree"
)

var le = binary.LittleEndian

// Partition is a range of a disk.
type Partition struct {
	Number int // as the guest's kernel counts
	Name   string
	Device tree.Device
}

const (
	sector         = 512
	maxPartitions  = 128
	typeExtended   = 0x05
	typeExtendedX  = 0x0f
	typeExtendedL  = 0x85
	typeProtective = 0xee
)

// Partitions reads the partition table; ok is false when there is none. A table
// that is damaged is an error.
func Partitions(dev tree.Device) (all []Partition, ok bool, err error) {
	p := make([]byte, sector)
	if dev.Size() < 2*sector {
		return nil, false, nil
	}
	if err := tree.ReadFull(dev, p, 0); err != nil {
		return nil, false, err
	}
	if p[510] != 0x55 || p[511] != 0xaa || !entries(p, dev.Size()) {
		return nil, false, nil
	}
	for i := range 4 {
		if p[446+16*i+4] == typeProtective {
			all, err = gpt(dev)
			return all, true, err
		}
	}
	all, err = mbr(dev, p)
	return all, true, err
}

// entries says whether a boot sector has a partition table: file systems have a
// boot sector of this form, too, with code in the place of the table.
func entries(p []byte, size int64) bool {
	used := 0
	for i := range 4 {
		e := p[446+16*i : 462+16*i]
		start, n := int64(le.Uint32(e[8:]))*sector, int64(le.Uint32(e[12:]))*sector
		if e[4] == 0 {
			continue
		}
		if e[0]&0x7f != 0 || n == 0 || start == 0 || start >= size {
			return false
		}
		used++
	}
	return used > 0
}

// mbr reads the four entries, and the chain of those in an extended partition,
// which count from 5.
func mbr(dev tree.Device, p []byte) (all []Partition, err error) {
	for i := range 4 {
		e := p[446+16*i : 462+16*i]
		start, n := int64(le.Uint32(e[8:])), int64(le.Uint32(e[12:]))
		switch e[4] {
		case 0:
		case typeExtended, typeExtendedX, typeExtendedL:
			more, err := logical(dev, start)
			if err != nil {
				return nil, err
			}
			all = append(all, more...)
		default:
			all = append(all, Partition{Number: i + 1, Device: clip(dev, start*sector, n*sector)})
		}
	}
	return all, nil
}

func logical(dev tree.Device, first int64) (all []Partition, err error) {
	p := make([]byte, sector)
	for at := first; ; {
		if err := tree.ReadFull(dev, p, at*sector); err != nil {
			return nil, err
		}
		if p[510] != 0x55 || p[511] != 0xaa {
			return nil, tree.Damaged("the extended partition at sector %d", at)
		}
		if e := p[446:462]; e[4] != 0 {
			start, n := at+int64(le.Uint32(e[8:])), int64(le.Uint32(e[12:]))
			all = append(all, Partition{Number: 5 + len(all), Device: clip(dev, start*sector, n*sector)})
		}
		next := p[462:478]
		if next[4] == 0 {
			return all, nil
		}
		to := first + int64(le.Uint32(next[8:]))
		if to <= at || len(all) >= maxPartitions {
			return nil, tree.Damaged("the chain of extended partitions at sector %d", at)
		}
		at = to
	}
}

// gpt reads the table at the beginning, or the copy at the end.
func gpt(dev tree.Device) ([]Partition, error) {
	var first error
	for _, size := range []int64{512, 4096} {
		for _, at := range []int64{size, dev.Size()/size*size - size} {
			all, err := gptAt(dev, at, size)
			if err == nil {
				return all, nil
			}
			if first == nil {
				first = err
			}
		}
	}
	return nil, first
}

func gptAt(dev tree.Device, at, size int64) (all []Partition, err error) {
	h := make([]byte, 512)
	if err := tree.ReadFull(dev, h, at); err != nil {
		return nil, err
	}
	length := le.Uint32(h[12:])
	if string(h[:8]) != "EFI PART" || length < 92 || length > 512 {
		return nil, tree.Damaged("no GUID partition table")
	}
	sum := le.Uint32(h[16:])
	clear(h[16:20])
	if ieee(h[:length]) != sum {
		return nil, tree.Damaged("the header of the GUID partition table")
	}
	n, each := int64(le.Uint32(h[80:])), int64(le.Uint32(h[84:]))
	if each < 128 || each > 4096 || n > 1024 {
		return nil, tree.Damaged("the GUID partition table has %d entries of %d bytes", n, each)
	}
	table := make([]byte, n*each)
	if err := tree.ReadFull(dev, table, sectors(le.Uint64(h[72:]), size)); err != nil {
		return nil, err
	}
	if ieee(table) != le.Uint32(h[88:]) {
		return nil, tree.Damaged("the entries of the GUID partition table")
	}
	for i := range n {
		e := table[i*each:]
		if [16]byte(e) == [16]byte{} {
			continue
		}
		from, to := sectors(le.Uint64(e[32:]), size), sectors(le.Uint64(e[40:]), size)
		all = append(all, Partition{Number: int(i) + 1, Name: utf16Text(e[56:128]), Device: clip(dev, from, to+size-from)})
	}
	return all, nil
}

// sectors is n sectors in bytes, without running over.
func sectors(n uint64, size int64) int64 { return int64(min(n, 1<<50)) * size }

// clip is a section of a device, no longer than the device is.
func clip(dev tree.Device, off, n int64) tree.Device {
	if off < 0 || n <= 0 || off >= dev.Size() {
		return tree.Section(dev, 0, 0)
	}
	return tree.Section(dev, off, min(n, dev.Size()-off))
}
