package nbd

import "encoding/binary"

// dataHeaderSize is the size of what precedes the data in the reply to a read.
func (w *worker) dataHeaderSize() int {
	switch {
	case w.s.extended:
		return extReplySize + 8
	case w.s.structured:
		return chunkSize + 8
	}
	return simpleReplySize
}

// putDataHeader fills b for n bytes of data at off in reply to r.
func (w *worker) putDataHeader(b []byte, r *request, off uint64, n int, flags uint16) {
	if !w.s.chunked() {
		binary.BigEndian.PutUint32(b, magicSimple)
		binary.BigEndian.PutUint32(b[4:], 0)
		binary.BigEndian.PutUint64(b[8:], r.cookie)
		return
	}
	h := w.putChunk(b, r, chunkData, flags, 8+n)
	binary.BigEndian.PutUint64(b[h:], off)
}

// putChunk fills b with the header of a chunk whose payload has n bytes, and returns the header's size.
func (w *worker) putChunk(b []byte, r *request, t chunkType, flags uint16, n int) int {
	binary.BigEndian.PutUint16(b[4:], flags)
	binary.BigEndian.PutUint16(b[6:], uint16(t))
	binary.BigEndian.PutUint64(b[8:], r.cookie)
	if w.s.extended {
		binary.BigEndian.PutUint32(b, magicExtReply)
		binary.BigEndian.PutUint64(b[16:], r.off)
		binary.BigEndian.PutUint64(b[24:], uint64(n))
		return extReplySize
	}
	binary.BigEndian.PutUint32(b, magicChunk)
	binary.BigEndian.PutUint32(b[16:], uint32(n))
	return chunkSize
}

// extend makes the output n bytes longer and returns the new part.
func (w *worker) extend(n int) ([]byte, error) {
	if ok, err := w.room(n); err != nil || !ok {
		if err == nil {
			err = errNoRoom
		}
		return nil, err
	}
	base := len(w.out)
	w.out = w.out[:base+n]
	return w.out[base:], nil
}

// succeed replies to a request without data.
func (w *worker) succeed(r *request) error {
	// A structured session may use simple replies, except for reads; an extended one may not.
	if w.s.extended || w.s.structured && r.cmd == cmdRead {
		size := chunkSize
		if w.s.extended {
			size = extReplySize
		}
		b, err := w.extend(size)
		if err == nil {
			w.putChunk(b, r, chunkNone, chunkDone, 0)
		}
		return err
	}
	return w.simple(r, 0)
}

func (w *worker) simple(r *request, errno Errno) error {
	b, err := w.extend(simpleReplySize)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(b, magicSimple)
	binary.BigEndian.PutUint32(b[4:], uint32(errno))
	binary.BigEndian.PutUint64(b[8:], r.cookie)
	return nil
}

// fail replies with an error, and ends the reply.
func (w *worker) fail(r *request, errno Errno) error {
	if !w.s.chunked() {
		return w.simple(r, errno)
	}
	text := errno.Error()
	n := 6 + len(text)
	size := chunkSize + n
	if w.s.extended {
		size = extReplySize + n
	}
	b, err := w.extend(size)
	if err != nil {
		return err
	}
	h := w.putChunk(b, r, chunkError, chunkDone, n)
	binary.BigEndian.PutUint32(b[h:], uint32(errno))
	binary.BigEndian.PutUint16(b[h+4:], uint16(len(text)))
	copy(b[h+6:], text)
	return nil
}
