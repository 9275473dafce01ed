package index

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
)

// An index file, all numbers little-endian:
//
//	block 0     header, 128 bytes used, the rest zero
//	block 1…    records, 32 bytes each, sorted by (volume, level, unit, seq, order added);
//	            those of one volume and level are a section
//	            directory: u32 per bucket and one more per section: the number, in the
//	            section, of the bucket's first record; starts a block
//	            filter: u64 words (a Bloom filter within each word); starts a block
//	trailer     section table, 56 bytes each; u32 CRC32C of every block from 1 on
//
// Header and trailer are checked when the file is opened, a block when it is
// first touched.
const (
	magic       = "RHJINDEX"
	version     = 1
	blockShift  = 12
	blockSize   = 1 << blockShift
	recordSize  = 32
	recordShift = 5
	headerSize  = 128
	sectionSize = 56
	zeroFlag    = 1 << 63
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	le         = binary.LittleEndian
)

// header is block 0.
type header struct {
	firstSeg, lastSeg  uint32
	minSeq, maxSeq     uint64
	records            uint64
	dirOff, dirLen     uint64 // bytes; entries
	filterOff, words   uint64 // bytes; words
	trailerOff, length uint64 // bytes
	sections, tier     uint32
	trailerCRC         uint32
}

func (h *header) encode(p []byte) {
	clear(p[:headerSize])
	copy(p, magic)
	le.PutUint32(p[8:], version)
	le.PutUint32(p[12:], recordSize)
	le.PutUint32(p[16:], h.firstSeg)
	le.PutUint32(p[20:], h.lastSeg)
	for i, v := range []uint64{h.minSeq, h.maxSeq, h.records, h.dirOff, h.dirLen, h.filterOff, h.words, h.trailerOff, h.length} {
		le.PutUint64(p[24+8*i:], v)
	}
	le.PutUint32(p[96:], h.sections)
	le.PutUint32(p[100:], h.tier)
	le.PutUint32(p[104:], h.trailerCRC)
	le.PutUint32(p[124:], crc32.Checksum(p[:124], castagnoli))
}

// decodeHeader checks all that the header alone and the file's size can tell.
// It returns what is wrong, or "".
func decodeHeader(p []byte, size int64) (h header, why string) {
	if len(p) < blockSize {
		return h, "shorter than a header"
	}
	if string(p[:8]) != magic {
		return h, "wrong magic"
	}
	if crc32.Checksum(p[:124], castagnoli) != le.Uint32(p[124:]) {
		return h, "header checksum does not match"
	}
	if le.Uint32(p[8:]) != version || le.Uint32(p[12:]) != recordSize {
		return h, "unknown version"
	}
	h.firstSeg, h.lastSeg = le.Uint32(p[16:]), le.Uint32(p[20:])
	for i, v := range []*uint64{&h.minSeq, &h.maxSeq, &h.records, &h.dirOff, &h.dirLen, &h.filterOff, &h.words, &h.trailerOff, &h.length} {
		*v = le.Uint64(p[24+8*i:])
	}
	h.sections, h.tier, h.trailerCRC = le.Uint32(p[96:]), le.Uint32(p[100:]), le.Uint32(p[104:])
	total := uint64(size)
	ok := h.firstSeg <= h.lastSeg && h.minSeq <= h.maxSeq &&
		h.records <= total>>recordShift && h.dirLen <= total>>2 && h.words <= total>>3 &&
		h.dirOff == blockSize+roundUp(h.records<<recordShift) &&
		h.filterOff == h.dirOff+roundUp(h.dirLen<<2) &&
		h.trailerOff == h.filterOff+roundUp(h.words<<3) &&
		h.trailerOff <= total && h.length == total &&
		h.length-h.trailerOff == uint64(h.sections)*sectionSize+(h.trailerOff>>blockShift-1)*4
	if !ok {
		return h, "header fields do not agree"
	}
	return h, ""
}

func roundUp(n uint64) uint64 { return (n + blockSize - 1) &^ (blockSize - 1) }

// section is the records of one volume at one level.
type section struct {
	vol, level       uint32
	minUnit, maxUnit uint64
	first, count     uint64 // record numbers in the file
	dir              uint64 // number of the section's first directory entry
	shift            uint32 // a bucket is 1<<shift units
}

func (s *section) buckets() uint64 { return (s.maxUnit-s.minUnit)>>s.shift + 1 }

func (s *section) encode(p []byte) {
	clear(p[:sectionSize])
	le.PutUint32(p, s.vol)
	le.PutUint32(p[4:], s.level)
	for i, v := range []uint64{s.minUnit, s.maxUnit, s.first, s.count, s.dir} {
		le.PutUint64(p[8+8*i:], v)
	}
	le.PutUint32(p[48:], s.shift)
}

func decodeSection(p []byte) (s section) {
	s.vol, s.level = le.Uint32(p), le.Uint32(p[4:])
	for i, v := range []*uint64{&s.minUnit, &s.maxUnit, &s.first, &s.count, &s.dir} {
		*v = le.Uint64(p[8+8*i:])
	}
	s.shift = le.Uint32(p[48:])
	return s
}

// bucketShift chooses buckets of about four records, at most maxBuckets.
func bucketShift(span, records uint64) uint32 {
	limit := min(max(records/4, 1), maxBuckets)
	shift := uint32(0)
	for span>>shift+1 > limit {
		shift++
	}
	return shift
}

const (
	maxBuckets     = 4 << 20 // per section
	maxFilterWords = 2 << 20 // 16 MiB
	filterBits     = 12      // per record
)

// record is one version of one unit, decoded.
type record struct {
	unit   uint64
	seq    uint64
	pos    int64
	seg    uint32
	lo, hi uint16
	zero   bool
}

func (r *record) encode(p []byte) {
	_ = p[recordSize-1]
	le.PutUint64(p, r.unit)
	le.PutUint64(p[8:], r.seq)
	pos := uint64(r.pos)
	if r.zero {
		pos |= zeroFlag
	}
	le.PutUint64(p[16:], pos)
	le.PutUint32(p[24:], r.seg)
	le.PutUint16(p[28:], r.lo)
	le.PutUint16(p[30:], r.hi)
}

func decodeRecord(p []byte) record {
	_ = p[recordSize-1]
	pos := le.Uint64(p[16:])
	return record{unit: le.Uint64(p), seq: le.Uint64(p[8:]), pos: int64(pos &^ zeroFlag), zero: pos&zeroFlag != 0,
		seg: le.Uint32(p[24:]), lo: le.Uint16(p[28:]), hi: le.Uint16(p[30:])}
}

// filterKey hashes what the filter knows a unit by. The eight lowest units of
// 4 KiB share one key, so that a 4 KiB lookup asks once.
func filterKey(vol uint32, level int, unit uint64) uint64 {
	if level == 0 {
		unit >>= shifts[1] - shifts[0]
	}
	return hashUnit(vol, level, unit)
}

// filterPlace is the word of a key, and its bits in the word.
func filterPlace(key, words uint64) (word, mask uint64) {
	word, _ = bits.Mul64(key, words)
	low := key * 0x9fb21c651e98df25
	mask = 1<<(low>>58) | 1<<(low>>52&63) | 1<<(low>>46&63) | 1<<(low>>40&63)
	return word, mask
}
