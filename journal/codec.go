package journal

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"hash/crc32"
)

// castagnoli is CRC32C, as iSCSI and ext4 use it.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Hash is the first 16 bytes of a SHA-256: it names a batch and all before it.
type Hash [16]byte

// Kind of a batch.
type Kind uint8

// Kinds of batches.
const (
	KindWrites  Kind = 1 // what the taps received
	KindSync    Kind = 2 // what a sync copied
	KindControl Kind = 3
)

func (k Kind) String() string {
	switch k {
	case KindWrites:
		return "writes"
	case KindSync:
		return "sync"
	case KindControl:
		return "control"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

const (
	formatVersion   = 1
	batchMagic      = uint32('R') | 'H'<<8 | 'J'<<16 | 'B'<<24
	segmentMagic    = uint32('R') | 'H'<<8 | 'J'<<16 | 'S'<<24
	batchHeaderSize = 128
	segmentFixed    = 128 // bytes of a segment header before the timeline
	segmentBlock    = 4096
	maxBatchBody    = 256 << 20
	maxBatchEntries = 1 << 16
	maxSegmentHead  = 16 << 20
)

// Pos is a place in a log.
type Pos struct {
	Segment uint32 `json:"segment"`
	Off     int64  `json:"off"` // bytes, in the segment's file
}

// Before tells whether p comes before q.
func (p Pos) Before(q Pos) bool {
	return p.Segment < q.Segment || p.Segment == q.Segment && p.Off < q.Off
}

// batchHeader is the decoded header of a batch.
type batchHeader struct {
	kind                Kind
	epoch               Epoch
	first, last         Seq
	count               uint32
	crc                 uint32 // over the entry headers, then this header with 0 here
	body                int64  // bytes after the header
	firstTime, lastTime int64  // ns since 1970
	prev                Hash   // of the batch before
	synced              Pos    // everything before was durable when this was written
	at                  Pos    // where the batch itself is
	group               GroupID
	serial              Serial // 0: not numbered
}

func (b *batchHeader) encode(p []byte) {
	p = p[:batchHeaderSize]
	clear(p)
	le := binary.LittleEndian
	le.PutUint32(p[0:], batchMagic)
	le.PutUint16(p[4:], formatVersion)
	p[6] = byte(b.kind)
	le.PutUint64(p[8:], uint64(b.epoch))
	le.PutUint64(p[16:], uint64(b.first))
	le.PutUint64(p[24:], uint64(b.last))
	le.PutUint32(p[32:], b.count)
	le.PutUint32(p[36:], b.crc)
	le.PutUint64(p[40:], uint64(b.body))
	le.PutUint64(p[48:], uint64(b.firstTime))
	le.PutUint64(p[56:], uint64(b.lastTime))
	copy(p[64:80], b.prev[:])
	le.PutUint32(p[80:], b.synced.Segment)
	le.PutUint32(p[84:], b.at.Segment)
	le.PutUint64(p[88:], uint64(b.synced.Off))
	copy(p[96:112], b.group[:])
	le.PutUint64(p[112:], uint64(b.at.Off))
	le.PutUint64(p[120:], uint64(b.serial))
}

// decode reads the header's fields and holds them to the rules that need no
// entry. The CRC is checked by seal.
func (b *batchHeader) decode(p []byte) error {
	p = p[:batchHeaderSize]
	le := binary.LittleEndian
	if m := le.Uint32(p[0:]); m != batchMagic {
		return fmt.Errorf("batch magic is %#08x", m)
	}
	if v := le.Uint16(p[4:]); v != formatVersion {
		return fmt.Errorf("batch version is %d: %w", v, ErrVersion)
	}
	*b = batchHeader{
		kind:  Kind(p[6]),
		epoch: Epoch(le.Uint64(p[8:])),
		first: Seq(le.Uint64(p[16:])), last: Seq(le.Uint64(p[24:])),
		count: le.Uint32(p[32:]), crc: le.Uint32(p[36:]), body: int64(le.Uint64(p[40:])),
		firstTime: int64(le.Uint64(p[48:])), lastTime: int64(le.Uint64(p[56:])),
		prev:   Hash(p[64:80]),
		synced: Pos{Segment: le.Uint32(p[80:]), Off: int64(le.Uint64(p[88:]))},
		at:     Pos{Segment: le.Uint32(p[84:]), Off: int64(le.Uint64(p[112:]))},
		group:  GroupID(p[96:112]),
		serial: Serial(le.Uint64(p[120:])),
	}
	switch {
	case b.kind < KindWrites || b.kind > KindControl:
		return fmt.Errorf("batch kind is %d", b.kind)
	case b.count == 0 || b.count > maxBatchEntries:
		return fmt.Errorf("batch has %d entries", b.count)
	case b.body < int64(b.count)*EntryHeaderSize || b.body > maxBatchBody || b.body%8 != 0:
		return fmt.Errorf("batch body of %d bytes for %d entries", b.body, b.count)
	}
	return nil
}

// sealer computes the checksum and the hash of a batch over its entry headers
// and then its own header. Use newSealer.
type sealer struct {
	sha hash.Hash
	sum [sha256.Size]byte
	buf [batchHeaderSize]byte
}

func newSealer() *sealer { return &sealer{sha: sha256.New()} }

// seal computes both for the entry headers in heads (one after the other) and
// the encoded header head, whose CRC field it ignores.
func (s *sealer) seal(heads, head []byte) (uint32, Hash) {
	copy(s.buf[:], head)
	clear(s.buf[36:40])
	crc := crc32.Update(crc32.Checksum(heads, castagnoli), castagnoli, s.buf[:])
	s.sha.Reset()
	s.sha.Write(heads)
	s.sha.Write(s.buf[:])
	s.sha.Sum(s.sum[:0])
	return crc, Hash(s.sum[:16])
}

// segmentHeader is the decoded header of a segment file.
type segmentHeader struct {
	size      int64 // bytes of the header in the file, a multiple of segmentBlock
	group     GroupID
	number    uint32
	epoch     Epoch
	firstSeq  Seq    // one above the last seq before the segment
	firstTime int64  // no entry in the segment is older; ns since 1970
	prev      Hash   // of the last batch before the segment
	prevLen   int64  // bytes of the segment before, 0 if there is none
	synced    Pos    // as in batchHeader
	serial    Serial // of the last numbered batch before the segment
	timeline  Timeline
}

func (s *segmentHeader) encode() ([]byte, error) {
	state, err := json.Marshal(&s.timeline)
	if err != nil {
		return nil, fmt.Errorf("encode timeline: %w", err)
	}
	s.size = int64(segmentFixed+len(state)+segmentBlock-1) &^ (segmentBlock - 1)
	if s.size > maxSegmentHead {
		return nil, fmt.Errorf("%w: segment header of %d bytes", ErrInvalid, s.size)
	}
	p := make([]byte, s.size)
	le := binary.LittleEndian
	le.PutUint32(p[0:], segmentMagic)
	le.PutUint16(p[4:], formatVersion)
	p[6] = 0 // full history
	le.PutUint32(p[8:], uint32(s.size))
	le.PutUint32(p[12:], uint32(len(state)))
	copy(p[16:32], s.group[:])
	le.PutUint32(p[32:], s.number)
	le.PutUint64(p[40:], uint64(s.epoch))
	le.PutUint64(p[48:], uint64(s.firstSeq))
	le.PutUint64(p[56:], uint64(s.firstTime))
	copy(p[64:80], s.prev[:])
	le.PutUint64(p[80:], uint64(s.prevLen))
	le.PutUint32(p[88:], s.synced.Segment)
	le.PutUint64(p[96:], uint64(s.synced.Off))
	le.PutUint64(p[104:], uint64(s.serial))
	copy(p[segmentFixed:], state)
	le.PutUint32(p[124:], crc32.Checksum(p, castagnoli))
	return p, nil
}

// segmentHeaderSize reads the header's length from its first block.
func segmentHeaderSize(p []byte) (int64, error) {
	le := binary.LittleEndian
	if len(p) < segmentFixed {
		return 0, fmt.Errorf("segment header is cut off")
	}
	if m := le.Uint32(p); m != segmentMagic {
		return 0, fmt.Errorf("segment magic is %#08x", m)
	}
	if v := le.Uint16(p[4:]); v != formatVersion {
		return 0, fmt.Errorf("segment version is %d: %w", v, ErrVersion)
	}
	size := int64(le.Uint32(p[8:]))
	if size < segmentBlock || size > maxSegmentHead || size%segmentBlock != 0 {
		return 0, fmt.Errorf("segment header of %d bytes", size)
	}
	return size, nil
}

// decode reads a whole header; the timeline only if asked to.
func (s *segmentHeader) decode(p []byte, withTimeline bool) error {
	size, err := segmentHeaderSize(p)
	if err != nil {
		return err
	}
	if int64(len(p)) != size {
		return fmt.Errorf("segment header of %d bytes, %d expected", len(p), size)
	}
	le := binary.LittleEndian
	want := le.Uint32(p[124:])
	var zero [4]byte
	crc := crc32.Checksum(p[:124], castagnoli)
	crc = crc32.Update(crc, castagnoli, zero[:])
	if crc = crc32.Update(crc, castagnoli, p[128:]); crc != want {
		return fmt.Errorf("segment header checksum is %08x, %08x stored", crc, want)
	}
	if p[6] != 0 {
		return fmt.Errorf("segment kind is %d: %w", p[6], ErrVersion)
	}
	state := int64(le.Uint32(p[12:]))
	if state > size-segmentFixed {
		return fmt.Errorf("segment header: timeline of %d bytes", state)
	}
	*s = segmentHeader{
		size: size, group: GroupID(p[16:32]), number: le.Uint32(p[32:]),
		epoch: Epoch(le.Uint64(p[40:])), firstSeq: Seq(le.Uint64(p[48:])), firstTime: int64(le.Uint64(p[56:])),
		prev: Hash(p[64:80]), prevLen: int64(le.Uint64(p[80:])),
		synced: Pos{Segment: le.Uint32(p[88:]), Off: int64(le.Uint64(p[96:]))},
		serial: Serial(le.Uint64(p[104:])),
	}
	if s.firstSeq == 0 || s.prevLen < 0 || s.synced.Off < 0 {
		return fmt.Errorf("segment header: first seq %d, %d bytes before", s.firstSeq, s.prevLen)
	}
	if withTimeline {
		if err := json.Unmarshal(p[segmentFixed:segmentFixed+state], &s.timeline); err != nil {
			return fmt.Errorf("segment header: timeline: %w", err)
		}
	}
	return nil
}
