package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	frameHeader = 12
	maxBody     = 1 << 20   // of any frame
	maxControl  = 256 << 10 // of a JSON body
	maxPiece    = 256 << 10 // of data that we put into a frame: a turn is short
)

const flagCompressed = 1

// theirs is the bit of a stream's number that says that the one to whom the
// frame goes has opened it: either side numbers the streams that it opens. A
// Conn knows its streams by the numbers that it writes.
const theirs uint16 = 1 << 15

type frameType uint8

const (
	typePreface frameType = 1
	typePing    frameType = 2
	typeRequest frameType = 3
	typeReply   frameType = 4
	typeCancel  frameType = 5
	typeOpen    frameType = 16
	typeAnswer  frameType = 17
	typeData    frameType = 18
	typeGrant   frameType = 19
	typeAck     frameType = 20
	typeStall   frameType = 21
	typeClose   frameType = 22
	typePipe    frameType = 23
)

// rule is what a frame of a type may look like.
type rule struct {
	name     string
	min, max int
	stream   bool // it belongs to a stream, not to the connection
}

var rules = map[frameType]rule{
	typePreface: {"preface", prefaceSize, prefaceSize, false},
	typePing:    {"ping", 0, 0, false},
	typeRequest: {"request", 2, maxControl, false},
	typeReply:   {"reply", 2, maxControl, false},
	typeCancel:  {"cancel", 2, 100, false},
	typeOpen:    {"open", 2, 8 << 10, true},
	typeAnswer:  {"answer", 2, 8 << 10, true},
	typeData:    {"data", 1, maxBody, true},
	typeGrant:   {"grant", 8, 8, true},
	typeAck:     {"ack", ackSize, ackSize, true},
	typeStall:   {"stall", 2, 8 << 10, true},
	typeClose:   {"close", 2, 8 << 10, true},
	typePipe:    {"pipe", 2, 8 << 10, true},
}

func (t frameType) String() string {
	if r, ok := rules[t]; ok {
		return r.name
	}
	return fmt.Sprintf("type %d", uint8(t))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frame is a frame as it came, stream as the peer wrote it. The body is valid until the next one is read.
type frame struct {
	typ    frameType
	flags  uint8
	stream uint16
	body   []byte
	at     int64 // byte of the connection
}

// wrong is an error about the frame.
func (f *frame) wrong(format string, args ...any) error {
	return &FrameError{Offset: f.at, Type: f.typ, Stream: f.stream, Detail: fmt.Sprintf(format, args...)}
}

// putHeader completes a frame whose body stands behind room for its header.
func putHeader(p []byte, t frameType, flags uint8, stream uint16) {
	le := binary.LittleEndian
	body := p[frameHeader:]
	le.PutUint32(p, uint32(len(body)))
	p[4], p[5] = byte(t), flags
	le.PutUint16(p[6:], stream)
	le.PutUint32(p[8:], crc32.Checksum(body, castagnoli))
}

// appendFrame appends a whole frame, not compressed.
func appendFrame(dst []byte, t frameType, stream uint16, body []byte) []byte {
	at := len(dst)
	dst = append(append(dst, make([]byte, frameHeader)...), body...)
	putHeader(dst[at:], t, 0, stream)
	return dst
}

// decoder reads frames, and nothing that the rules do not allow.
type decoder struct {
	r    io.Reader
	at   int64
	head [frameHeader]byte
	body []byte
}

// next reads a frame. Its body is allocated only when its length is a possible
// one. io.EOF when the bytes end between two frames.
func (d *decoder) next() (frame, error) {
	f := frame{at: d.at}
	n, err := io.ReadFull(d.r, d.head[:])
	d.at += int64(n)
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: header of the frame at byte %d is cut off", err, f.at)
		}
		return f, err
	}
	le := binary.LittleEndian
	size := le.Uint32(d.head[:])
	f.typ, f.flags, f.stream = frameType(d.head[4]), d.head[5], le.Uint16(d.head[6:])
	if err := f.check(size); err != nil {
		return f, err
	}
	if int(size) > cap(d.body) {
		d.body = make([]byte, size)
	}
	f.body = d.body[:size]
	n, err = io.ReadFull(d.r, f.body)
	d.at += int64(n)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return f, fmt.Errorf("%w: body of the frame at byte %d is cut off: %d of %d bytes", io.ErrUnexpectedEOF, f.at, n, size)
		}
		return f, err
	}
	if got, want := crc32.Checksum(f.body, castagnoli), le.Uint32(d.head[8:]); got != want {
		return f, f.wrong("checksum of the body is %08x, the header says %08x", got, want)
	}
	return f, nil
}

// check holds a header to the rule of its type.
func (f *frame) check(size uint32) error {
	r, ok := rules[f.typ]
	switch {
	case !ok:
		return f.wrong("there is no such type")
	case int64(size) < int64(r.min) || int64(size) > int64(r.max):
		return f.wrong("body of %d bytes: %d to %d are possible", size, r.min, r.max)
	case r.stream != (f.stream != 0) || f.stream == theirs:
		return f.wrong("it does not belong there")
	case f.flags&^flagCompressed != 0 || f.flags != 0 && f.typ != typeData:
		return f.wrong("flags %#x are not possible", f.flags)
	}
	return nil
}
