package tap

import (
	"hash/crc32"
	"math/bits"
	"sync/atomic"
	"unsafe"
)

// Shared memory layout, in the byte order of the machine (it never leaves the host):
//
//	header      one page: what never changes, then one cache line for each writer
//	slot table  maxSlots slots of 64 bytes
//	chunk map   one word per chunk, whole pages
//	data        chunks, each a power of 2 long: a row of entries as journal.Header encodes them, each 8-aligned and in one piece
//
// A position counts the bytes of all chunks ever filled: position / chunk length is the chunk's number in that order, and the map says at
// number modulo chunks where its memory lies. Chunks are used again in any order, the one that was released last first: so a ring
// takes as much memory as its consumer lags behind, and stays in the processor's cache. Where an entry does not fit into
// the rest of a chunk, the word padMagic says that the rest is skipped.
//
// Protocol. The producer, under its lock: checks that there is room in a chunk, stores 0 in the first word (the magic) of the entry's
// place, writes the rest of the header, stores the new head. Outside the lock it copies the payload and then stores the magic. Only
// then is the write answered. The consumer loads head, and from its own position on loads first words: 0 means not yet, the magic
// means that the whole entry is there. When the journal has the bytes it moves tail.
//
// Why that is enough: all shared words are accessed with sync/atomic, which is sequentially consistent in Go.
// (1) An old magic is never taken for a new one: the word is cleared before head covers it, and the consumer looks only below head.
// (2) Who sees the magic sees the payload, stored before it. (3) Who sees tail moved may write there: the consumer's last access
// came before. (4) No wake-up is lost: the producer stores the magic, then loads sleeping; the consumer stores sleeping, then
// looks for the magic; at least one of them sees the other's store. The same holds for tail and spaceWait.
// (5) A process killed anywhere leaves tail ≤ head, and below head only whole entries, skips and words of 0 in front of headers
// of known length.
const (
	ringMagic   uint64 = 0x0047_4e49_5248_5052 // "RPHRING\0" on little-endian machines
	ringVersion uint32 = 1

	pageSize = 4096
	maxSlots = 256
	slotSize = 64
	slotsOff = pageSize
	mapOff   = slotsOff + maxSlots*slotSize

	padMagic uint32 = 0x50_41_44_21 // no entry's magic, not 0

	// MinRing and MaxRing bound a ring's data area, in bytes.
	MinRing = 256 << 10
	MaxRing = 64 << 30

	minChunk, maxChunk = 16 << 10, 4 << 20
)

// chunkFor is the chunk length for a ring of size bytes: a 16th, within bounds.
func chunkFor(size uint64) uint64 {
	return min(max(uint64(1)<<(bits.Len64(size/16)-1), minChunk), maxChunk)
}

// dataOff is where the data begins in a ring of that many chunks.
func dataOff(chunks uint64) uint64 { return mapOff + (4*chunks+pageSize-1)&^(pageSize-1) }

// header is the first page. Each group of fields is a cache line, so that producer and consumer do not fight over one.
type header struct {
	// Written once, before anybody else maps the ring.
	magic    uint64
	version  uint32
	slots    uint32
	chunk    uint64   // length, a power of 2, bytes
	dataSize uint64   // a multiple of it, bytes
	id       [16]byte // random: two rings are never mistaken for each other
	crc      uint32   // of the 48 bytes above
	_        [12]byte

	// Written by the producer for each entry.
	head atomic.Uint64 // position behind everything reserved
	last atomic.Uint64 // newest seq assigned
	_    [48]byte

	// Written by the consumer.
	tail     atomic.Uint64 // position before which everything is released
	consumed atomic.Uint64 // newest seq released, of this epoch
	owner    atomic.Uint64 // counts consumers; an older one finds itself replaced
	_        [40]byte

	// Written by both.
	sleeping  atomic.Uint32 // 1: the consumer waits for the eventfd
	spaceWait atomic.Uint32 // futex; 1: the producer waits for tail to move
	_         [56]byte

	// Written by the producer when something happens; version is odd meanwhile.
	stateVersion atomic.Uint64
	epoch        atomic.Uint64
	void         atomic.Uint32
	reason       atomic.Uint32
	cut          atomic.Uint64
	voids        atomic.Uint64
	losses       atomic.Uint64
	_            [16]byte

	// Written by the producer for each request while void.
	voidWrites atomic.Uint64
	voidBytes  atomic.Uint64
	_          [48]byte
}

// slot is one volume's line in the slot table, written like the header's state.
type slot struct {
	volume atomic.Uint32
	state  atomic.Uint32
	size   atomic.Uint64
	offers atomic.Uint32
	losses atomic.Uint32
	_      [40]byte
}

// The layout is shared between processes of different builds: these do not compile when it moves.
var (
	_ [6 * 64]byte                                 = [unsafe.Sizeof(header{})]byte{}
	_ [slotSize]byte                               = [unsafe.Sizeof(slot{})]byte{}
	_ [64]byte                                     = [unsafe.Offsetof(header{}.head)]byte{}
	_ [128]byte                                    = [unsafe.Offsetof(header{}.tail)]byte{}
	_ [192]byte                                    = [unsafe.Offsetof(header{}.sleeping)]byte{}
	_ [256]byte                                    = [unsafe.Offsetof(header{}.stateVersion)]byte{}
	_ [320]byte                                    = [unsafe.Offsetof(header{}.voidWrites)]byte{}
	_ [pageSize - unsafe.Sizeof(header{})]struct{} // it fits its page
)

// fixedCRC checks the part of the header that never changes.
func (h *header) fixedCRC() uint32 {
	p := unsafe.Slice((*byte)(unsafe.Pointer(h)), unsafe.Offsetof(h.crc))
	return crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli))
}

// word is the first word of the entry at off in the data area. off is a multiple of 8 below the data's length.
func word(data []byte, off uint64) *uint32 { return (*uint32)(unsafe.Pointer(&data[off])) }
