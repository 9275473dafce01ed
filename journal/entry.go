package journal

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync/atomic"
	"time"
	"unsafe"
)

// Op says what an entry does.
type Op uint8

// Ops of writes; they change a volume.
const (
	OpWrite Op = 1 // payload at [Off, Off+Len)
	OpZero  Op = 2 // [Off, Off+Len) reads as zeroes
	OpTrim  Op = 3 // as OpZero; the guest gave the space back
)

// Data tells whether the op changes a volume.
func (o Op) Data() bool { return o >= OpWrite && o <= OpTrim }

// Sizes of the entry format, in bytes.
const (
	EntryHeaderSize = 48
	// MaxPayload is the longest payload of one entry.
	MaxPayload = 64 << 20
)

// entryMagic is "RHJE" in the file: little-endian, as every number here.
const entryMagic = uint32('R') | 'H'<<8 | 'J'<<16 | 'E'<<24

// Offsets in an entry header.
const (
	offMagic      = 0
	offOp         = 4
	offFlags      = 5
	offReserved   = 6
	offSeq        = 8
	offOff        = 16
	offLen        = 24
	offCRC        = 28
	offTime       = 32
	offVolume     = 40
	offPayloadLen = 44
)

// Header is one entry header, decoded.
type Header struct {
	Op         Op
	Flags      uint8 // none defined in version 1
	Volume     VolumeID
	Seq        Seq
	Off        int64  // bytes, in the volume
	Len        uint32 // bytes
	PayloadLen uint32 // bytes; Len for OpWrite, 0 for OpZero and OpTrim, the body's for control records
	CRC        uint32 // CRC32C of the payload; the appender fills it in
	Time       int64  // wall clock, ns since 1970; never goes backwards in a log
}

// Wall is Time as a time.Time.
func (h *Header) Wall() time.Time { return time.Unix(0, h.Time) }

// Size is the entry's length in bytes, header and padding included.
func (h *Header) Size() int { return EntrySize(int(h.PayloadLen)) }

// EntrySize is the length in bytes of an entry with that many bytes of payload:
// header, payload, zeroes up to a multiple of 8.
func EntrySize(payload int) int { return EntryHeaderSize + (payload+7)&^7 }

// Encode writes the header into dst[:EntryHeaderSize], all but the magic, whose
// place it leaves alone: CommitEntry stores it when the payload is in place.
func (h *Header) Encode(dst []byte) {
	_ = dst[EntryHeaderSize-1]
	le := binary.LittleEndian
	dst[offOp] = byte(h.Op)
	dst[offFlags] = h.Flags
	le.PutUint16(dst[offReserved:], 0)
	le.PutUint64(dst[offSeq:], uint64(h.Seq))
	le.PutUint64(dst[offOff:], uint64(h.Off))
	le.PutUint32(dst[offLen:], h.Len)
	le.PutUint32(dst[offCRC:], h.CRC)
	le.PutUint64(dst[offTime:], uint64(h.Time))
	le.PutUint32(dst[offVolume:], uint32(h.Volume))
	le.PutUint32(dst[offPayloadLen:], h.PayloadLen)
}

// nativeMagic is entryMagic as this machine loads it from memory.
var nativeMagic = func() uint32 {
	var p [4]byte
	binary.LittleEndian.PutUint32(p[:], entryMagic)
	return binary.NativeEndian.Uint32(p[:])
}()

// magicWord is the magic's place in an entry. The entry must be aligned to 4.
func magicWord(p []byte) *uint32 {
	_ = p[EntryHeaderSize-1]
	return (*uint32)(unsafe.Pointer(unsafe.SliceData(p)))
}

// CommitEntry stores the magic atomically: a reader that sees it (Committed)
// sees everything written to the entry before. dst is aligned to 4 bytes.
func CommitEntry(dst []byte) { atomic.StoreUint32(magicWord(dst), nativeMagic) }

// Committed tells whether CommitEntry was called on the entry. p is aligned to
// 4 bytes and at least EntryHeaderSize long.
func Committed(p []byte) bool { return atomic.LoadUint32(magicWord(p)) == nativeMagic }

// DecodeHeader reads a committed entry header from p. It checks what the
// header alone can tell; the payload's CRC is the reader's business.
func DecodeHeader(p []byte) (Header, error) {
	if len(p) < EntryHeaderSize {
		return Header{}, fmt.Errorf("%w: entry header of %d bytes", ErrInvalid, len(p))
	}
	le := binary.LittleEndian
	if m := le.Uint32(p[offMagic:]); m != entryMagic {
		return Header{}, fmt.Errorf("%w: entry magic is %#08x", ErrInvalid, m)
	}
	h := Header{
		Op:         Op(p[offOp]),
		Flags:      p[offFlags],
		Seq:        Seq(le.Uint64(p[offSeq:])),
		Off:        int64(le.Uint64(p[offOff:])),
		Len:        le.Uint32(p[offLen:]),
		CRC:        le.Uint32(p[offCRC:]),
		Time:       int64(le.Uint64(p[offTime:])),
		Volume:     VolumeID(le.Uint32(p[offVolume:])),
		PayloadLen: le.Uint32(p[offPayloadLen:]),
	}
	if r := le.Uint16(p[offReserved:]); r != 0 || h.Flags != 0 {
		return Header{}, fmt.Errorf("%w: entry has unknown flags %#x/%#x", ErrInvalid, h.Flags, r)
	}
	return h, h.check()
}

// check holds a header to the format's rules.
func (h *Header) check() error {
	switch {
	case h.PayloadLen > MaxPayload:
		return fmt.Errorf("%w: payload of %d bytes", ErrInvalid, h.PayloadLen)
	case h.Off < 0 || h.Off > math.MaxInt64-int64(h.Len):
		return fmt.Errorf("%w: offset %d is out of range", ErrInvalid, h.Off)
	case h.Op == OpWrite && h.PayloadLen != h.Len:
		return fmt.Errorf("%w: write of %d bytes with %d bytes of payload", ErrInvalid, h.Len, h.PayloadLen)
	case (h.Op == OpZero || h.Op == OpTrim) && h.PayloadLen != 0:
		return fmt.Errorf("%w: %s with payload", ErrInvalid, h.Op)
	case h.Op.Data() && (h.Len == 0 || h.Volume == 0):
		return fmt.Errorf("%w: %s of %d bytes to volume %d", ErrInvalid, h.Op, h.Len, h.Volume)
	case !h.Op.Data() && !h.Op.Control():
		return fmt.Errorf("%w: unknown op %d", ErrInvalid, h.Op)
	case h.Op.Control() && (h.Len != 0 || h.Off != 0 || h.PayloadLen > maxControlBody):
		return fmt.Errorf("%w: malformed %s record", ErrInvalid, h.Op)
	}
	return nil
}
