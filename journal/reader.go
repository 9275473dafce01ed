package journal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// window is how much of a segment is read at once, in bytes.
const window = 1 << 20

// segReader reads a segment file mostly forward, through a buffer.
type segReader struct {
	f    io.ReaderAt
	size int64 // bytes to look at; the file may be longer
	buf  []byte
	at   int64 // place in the file of buf[0]
}

// bytes is [off, off+n) of the file, valid until the next call. io.EOF when the
// file does not have them.
func (r *segReader) bytes(off int64, n int) ([]byte, error) {
	if off < 0 || off+int64(n) > r.size {
		return nil, io.EOF
	}
	if off >= r.at && off+int64(n) <= r.at+int64(len(r.buf)) {
		return r.buf[off-r.at:][:n], nil
	}
	want := int(min(int64(max(n, window)), r.size-off))
	if cap(r.buf) < want {
		r.buf = make([]byte, want)
	}
	r.buf, r.at = r.buf[:want], off
	if got, err := r.f.ReadAt(r.buf, off); got < want {
		r.buf = r.buf[:0]
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return r.buf[:n], nil
}

// placed is an entry header and where its payload begins in the segment.
type placed struct {
	Header
	pos int64
}

// batch is one batch, read and checked.
type batch struct {
	batchHeader
	size    int64 // bytes, header included
	hash    Hash
	entries []placed
	bad     []CorruptError // payloads that are not what was written
}

// batchReader reads the batches of one segment. Its batch is used again by the
// next read.
type batchReader struct {
	segReader
	name  string // of the file, for errors
	group GroupID
	// anyGroup: the segment's header, which would tell the group, is unreadable.
	anyGroup bool
	segment  uint32
	sealer   *sealer
	heads    []byte
	b        batch
}

// flaw makes the error that says where.
func (r *batchReader) flaw(off, n int64, format string, args ...any) *CorruptError {
	return &CorruptError{File: r.name, Offset: off, Len: max(n, 1), Detail: fmt.Sprintf(format, args...)}
}

// because keeps the reason when it is one that no interrupted write explains.
func (e *CorruptError) because(err error) *CorruptError {
	for _, cause := range []error{ErrVersion, errForeign} {
		if errors.Is(err, cause) {
			e.cause = cause
		}
	}
	return e
}

// read reads the batch at off; with payloads, it also compares their
// checksums (b.bad). At the end of the segment the error is io.EOF. What is not
// a whole batch is a *CorruptError; other errors come from the disk.
func (r *batchReader) read(off int64, payloads bool) (*batch, error) {
	if off == r.size {
		return nil, io.EOF
	}
	head, err := r.bytes(off, batchHeaderSize)
	if errors.Is(err, io.EOF) {
		return nil, r.flaw(off, r.size-off, "batch header is cut off")
	} else if err != nil {
		return nil, r.fail(err)
	}
	b := &r.b
	b.entries, b.bad = b.entries[:0], b.bad[:0]
	if err := b.decode(head); err != nil {
		return nil, r.flaw(off, batchHeaderSize, "%v", err).because(err)
	}
	var raw [batchHeaderSize]byte
	copy(raw[:], head)
	b.size = batchHeaderSize + b.body
	if b.size > r.size-off {
		return nil, r.flaw(off, r.size-off, "batch of %d bytes is cut off", b.size)
	}
	if err := r.readEntries(off, payloads); err != nil {
		return nil, err
	}
	crc, hash := r.sealer.seal(r.heads, raw[:])
	if crc != b.crc {
		return nil, r.flaw(off, b.size, "checksum of the batch's headers is %08x, %08x stored", crc, b.crc)
	}
	b.hash = hash
	if b.at != (Pos{r.segment, off}) || b.group != r.group && !r.anyGroup {
		return nil, r.flaw(off, batchHeaderSize, "batch belongs to group %s, segment %d, byte %d", b.group, b.at.Segment, b.at.Off)
	}
	return b, nil
}

func (r *batchReader) fail(err error) error { return fmt.Errorf("read %s: %w", r.name, err) }

// readEntries walks the entries of the batch at off.
func (r *batchReader) readEntries(off int64, payloads bool) error {
	b := &r.b
	r.heads = r.heads[:0]
	at, end := off+batchHeaderSize, off+b.size
	for range b.count {
		if end-at < EntryHeaderSize {
			return r.flaw(off, b.size, "the batch's entries do not fit in it")
		}
		p, err := r.bytes(at, EntryHeaderSize)
		if err != nil {
			return r.fail(err)
		}
		h, err := DecodeHeader(p)
		if err != nil {
			return r.flaw(off, b.size, "entry at byte %d: %v", at, err)
		}
		r.heads = append(r.heads, p...)
		if int64(h.Size()) > end-at {
			return r.flaw(off, b.size, "the batch's entries do not fit in it")
		}
		e := placed{h, at + EntryHeaderSize}
		if payloads {
			if err := r.checkPayload(e); err != nil {
				return err
			}
		}
		b.entries = append(b.entries, e)
		at += int64(h.Size())
	}
	if at != end {
		return r.flaw(off, b.size, "%d bytes after the batch's last entry", end-at)
	}
	return nil
}

// checkPayload compares the payload with its checksum and looks at the padding.
func (r *batchReader) checkPayload(e placed) error {
	crc := uint32(0)
	for done := 0; done < int(e.PayloadLen); {
		n := min(window, int(e.PayloadLen)-done)
		p, err := r.bytes(e.pos+int64(done), n)
		if err != nil {
			return r.fail(err)
		}
		crc = crc32.Update(crc, castagnoli, p)
		done += n
	}
	if crc != e.CRC {
		r.b.bad = append(r.b.bad, *r.flaw(e.pos, int64(e.PayloadLen),
			"payload of seq %d: checksum is %08x, %08x stored", e.Seq, crc, e.CRC))
	}
	padding := e.Size() - EntryHeaderSize - int(e.PayloadLen)
	p, err := r.bytes(e.pos+int64(e.PayloadLen), padding)
	if err != nil {
		return r.fail(err)
	}
	for i, x := range p {
		if x != 0 {
			r.b.bad = append(r.b.bad, *r.flaw(e.pos+int64(e.PayloadLen)+int64(i), 1, "padding of seq %d is %#02x", e.Seq, x))
		}
	}
	return nil
}

// payload reads an entry's payload into a new slice.
func (r *batchReader) payload(e placed) ([]byte, error) {
	p := make([]byte, e.PayloadLen)
	if len(p) == 0 {
		return p, nil
	}
	if _, err := r.f.ReadAt(p, e.pos); err != nil {
		return nil, r.fail(err)
	}
	if crc := crc32.Checksum(p, castagnoli); crc != e.CRC {
		return nil, r.flaw(e.pos, int64(len(p)), "payload of seq %d: checksum is %08x, %08x stored", e.Seq, crc, e.CRC)
	}
	return p, nil
}
