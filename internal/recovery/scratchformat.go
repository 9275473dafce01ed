package recovery

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A scratch layer is three sparse files per volume. Each begins with a header of
// one page; numbers are little endian.
//
//	V<id>.data  the volume's bytes, shifted by one page
//	V<id>.map   which blocks are in .data, as of the last FLUSH: for each map
//	            page two slots, so that a torn write leaves the other one whole
//	V<id>.live  which blocks are in .data now, as plain words; worth something
//	            only until the machine goes down, because nothing syncs it
//
// Header: magic 8 | version u32 | part u32 | volume size i64 | boot id 16 | flags u32 | CRC32C of all before u32.
// Slot:   CRC32C of all that follows u32 | page index u32 | generation u64 | 4080 bytes of bits.
// Bit b of a word w, word i of map page n is block n*32640 + i*64 + b.
const (
	scratchMagic   = "RHSCRTCH"
	scratchVersion = 1

	page         = 4096            // bytes of a header, a slot and a block
	headerSize   = 48              // bytes
	slotHeader   = 16              // bytes
	wordsPerPage = (page - 16) / 8 // 510
	bitsPerPage  = wordsPerPage * 64
)

// part tells the files of a scratch layer apart.
type part uint32

const (
	partData part = 1
	partMap  part = 2
	partLive part = 3
)

func (p part) suffix() string {
	switch p {
	case partData:
		return ".data"
	case partMap:
		return ".map"
	default:
		return ".live"
	}
}

// flagFailed in .live: a sync failed, the layer cannot be trusted any more.
const flagFailed uint32 = 1

// bootID is the identity of the machine's run.
type bootID [16]byte

// header is the first page of a scratch file. boot is set in .live only.
type header struct {
	part  part
	size  int64 // of the volume, in bytes
	boot  bootID
	flags uint32
}

func (h *header) encode() []byte {
	p := make([]byte, page)
	copy(p, scratchMagic)
	binary.LittleEndian.PutUint32(p[8:], scratchVersion)
	binary.LittleEndian.PutUint32(p[12:], uint32(h.part))
	binary.LittleEndian.PutUint64(p[16:], uint64(h.size))
	copy(p[24:], h.boot[:])
	binary.LittleEndian.PutUint32(p[40:], h.flags)
	binary.LittleEndian.PutUint32(p[44:], crc32.Checksum(p[:44], castagnoli))
	return p
}

// decodeHeader reads the first bytes of a scratch file.
func decodeHeader(p []byte) (header, error) {
	if len(p) < headerSize || string(p[:8]) != scratchMagic {
		return header{}, fmt.Errorf("%w: no scratch layer", ErrCorrupt)
	}
	if v := binary.LittleEndian.Uint32(p[8:]); v != scratchVersion {
		return header{}, fmt.Errorf("%w: %d", ErrVersion, v)
	}
	if crc32.Checksum(p[:44], castagnoli) != binary.LittleEndian.Uint32(p[44:]) {
		return header{}, fmt.Errorf("%w: header checksum does not match", ErrCorrupt)
	}
	h := header{
		part:  part(binary.LittleEndian.Uint32(p[12:])),
		size:  int64(binary.LittleEndian.Uint64(p[16:])),
		flags: binary.LittleEndian.Uint32(p[40:]),
	}
	copy(h.boot[:], p[24:])
	if h.size < 0 {
		return header{}, fmt.Errorf("%w: volume size %d", ErrCorrupt, h.size)
	}
	return h, nil
}

// sealSlot fills the header of a slot whose bits are in place.
func sealSlot(p []byte, index uint32, gen uint64) {
	binary.LittleEndian.PutUint32(p[4:], index)
	binary.LittleEndian.PutUint64(p[8:], gen)
	binary.LittleEndian.PutUint32(p, crc32.Checksum(p[4:page], castagnoli))
}

// slotState is what a slot of the map file holds.
type slotState uint8

const (
	slotEmpty slotState = iota // never written
	slotTorn                   // half written, or damaged
	slotWhole
)

// openSlot checks one slot; gen orders the two of a page.
func openSlot(p []byte, index uint32) (gen uint64, st slotState) {
	if crc32.Checksum(p[4:page], castagnoli) == binary.LittleEndian.Uint32(p) &&
		binary.LittleEndian.Uint32(p[4:]) == index {
		if gen = binary.LittleEndian.Uint64(p[8:]); gen > 0 {
			return gen, slotWhole
		}
	}
	for _, b := range p[:page] {
		if b != 0 {
			return 0, slotTorn
		}
	}
	return 0, slotEmpty
}

// pickSlot chooses the newer whole slot of a page from its two, side by side.
// which is -1 if the page has never been written whole. Two torn slots cannot
// come from one crash.
func pickSlot(p []byte, index uint32) (which int, gen uint64, err error) {
	g0, s0 := openSlot(p[:page], index)
	g1, s1 := openSlot(p[page:], index)
	switch {
	case s0 == slotWhole && (s1 != slotWhole || g0 > g1):
		return 0, g0, nil
	case s1 == slotWhole:
		return 1, g1, nil
	case s0 == slotTorn && s1 == slotTorn:
		return -1, 0, fmt.Errorf("%w: both slots of map page %d", ErrCorrupt, index)
	}
	return -1, 0, nil
}
