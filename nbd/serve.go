package nbd

import (
	"context"
	"encoding/binary"
	"errors"
)

// errNoRoom says that a request does not fit the buffers that the budget allows.
var errNoRoom = errors.New("no room in the buffers")

// serve answers one request whose header has been consumed. An error ends the session.
func (w *worker) serve(ctx context.Context, r *request) error {
	if errno := w.s.check(r); errno != 0 {
		if err := w.skip(r.data); err != nil {
			return err
		}
		return w.fail(r, errno)
	}
	switch {
	case r.cmd == cmdBlockStatus:
		return w.blockStatus(ctx, r)
	case r.n == 0 && r.cmd != cmdFlush:
		return w.succeed(r)
	case r.cmd == cmdRead:
		return w.read(ctx, r)
	case r.cmd == cmdWrite:
		return w.write(ctx, r)
	}
	w.yield(nil)
	return w.finish(r, w.call(ctx, r, nil))
}

// invoke makes the backend call of a request other than NBD_CMD_BLOCK_STATUS.
func (w *worker) invoke(ctx context.Context, r *request, p []byte) error {
	b, off, n := w.s.backend, int64(r.off), int64(r.n)
	switch r.cmd {
	case cmdRead:
		return b.ReadAt(ctx, p, off)
	case cmdWrite:
		return b.WriteAt(ctx, p, off, r.flags&FlagFUA)
	case cmdWriteZeroes:
		return b.WriteZeroes(ctx, off, n, r.flags&(FlagFUA|FlagNoHole|FlagFastZero))
	case cmdTrim:
		return b.Trim(ctx, off, n, r.flags&FlagFUA)
	case cmdFlush:
		return b.Flush(ctx)
	case cmdCache:
		if w.s.cacher == nil {
			return nil
		}
		return w.s.cacher.Cache(ctx, off, n)
	case cmdBlockStatus:
		return w.collect(ctx, r)
	}
	return EINVAL
}

// finish replies to a request without data in its reply.
func (w *worker) finish(r *request, err error) error {
	if err != nil {
		return w.fail(r, w.translate(r, err))
	}
	return w.succeed(r)
}

// translate is errnoOf, without the error numbers that the specification keeps for special requests.
func (w *worker) translate(r *request, err error) Errno {
	errno := errnoOf(err)
	if errno == ENOTSUP && r.flags&FlagFastZero == 0 {
		errno = EINVAL
	}
	return errno
}

// skip throws away n bytes of payload.
func (w *worker) skip(n uint64) error {
	if n > 1<<32-1 {
		return violation("payload of %d bytes", n)
	}
	for n > 0 {
		if w.in.buffered() == 0 {
			if err := w.need(1); err != nil {
				return err
			}
		}
		n -= uint64(len(w.in.next(int(min(n, uint64(w.in.buffered()))))))
	}
	return nil
}

// write answers NBD_CMD_WRITE. The backend gets the payload where it was received.
func (w *worker) write(ctx context.Context, r *request) error {
	if r.n > uint64(w.s.info.MaxBlock) {
		return w.writePieces(ctx, r)
	}
	n := int(r.n)
	var data []byte
	switch err := w.need(n); {
	case err == nil:
		data = w.in.next(n)
	case !errors.Is(err, errNoRoom):
		return err
	case w.reserve(n):
		if err := w.receive(w.payload); err != nil {
			return err
		}
		data = w.payload
	default:
		return w.writePieces(ctx, r)
	}
	data = w.yield(data)
	return w.finish(r, w.call(ctx, r, data))
}

// receive fills p with input, past the input buffer.
func (w *worker) receive(p []byte) error {
	n := copy(p, w.in.next(min(len(p), w.in.buffered())))
	if n == len(p) {
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	w.s.expectRest(true)
	for n < len(p) {
		m, err := w.s.rw.Read(p[n:])
		n += m
		w.s.activity.Add(1)
		if m == 0 && err != nil {
			if err = w.s.interrupted(w, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// pieceSize is how much of a buffer of size bytes a piece may use. Pieces keep to the export's blocks.
func (w *worker) pieceSize(size int) int { return size &^ (int(w.s.info.MinBlock) - 1) }

// writePieces is write through the input buffer, whatever its size. The lead stays: the rest of the payload must be read.
func (w *worker) writePieces(ctx context.Context, r *request) error {
	if !w.in.grow(w.s.srv.budget) && smallBuffer < int(w.s.info.MinBlock) {
		w.in.growAnyway(w.s.srv.budget)
	}
	size := uint64(w.pieceSize(min(len(w.in.mem.bytes()), int(w.s.info.MaxBlock))))
	var failed error
	for done := uint64(0); done < r.n; {
		n := min(size, r.n-done)
		if err := w.need(int(n)); err != nil {
			return err
		}
		p := w.in.next(int(n))
		if failed == nil {
			piece := request{cmd: cmdWrite, flags: r.flags, off: r.off + done, n: n}
			failed = w.invoke(ctx, &piece, p)
		}
		done += n
	}
	return w.finish(r, failed)
}

// read answers NBD_CMD_READ. The backend fills the output buffer behind the place for the header.
func (w *worker) read(ctx context.Context, r *request) error {
	hdr, n := w.dataHeaderSize(), int(r.n)
	ok, err := w.room(hdr + n)
	if err != nil {
		return err
	}
	if !ok {
		if w.reserve(n) {
			return w.readLarge(ctx, r)
		}
		return w.readPieces(ctx, r)
	}
	w.yield(nil)
	base := len(w.out)
	if err := w.call(ctx, r, w.out[base+hdr:base+hdr+n]); err != nil {
		return w.fail(r, w.translate(r, err))
	}
	w.putDataHeader(w.out[base:base+hdr], r, r.off, n, chunkDone)
	w.out = w.out[:base+hdr+n]
	return nil
}

// readLarge is read through w.payload, which is sent as it is.
func (w *worker) readLarge(ctx context.Context, r *request) error {
	w.yield(nil)
	if err := w.call(ctx, r, w.payload); err != nil {
		return w.fail(r, w.translate(r, err))
	}
	hdr := w.dataHeaderSize()
	if _, err := w.room(hdr); err != nil {
		return err
	}
	base := len(w.out)
	w.out = w.out[:base+hdr]
	w.putDataHeader(w.out[base:], r, r.off, len(w.payload), chunkDone)
	return w.flushWith(w.payload)
}

// readPieces is read through a small buffer: in several chunks if the client allows, else in several writes of one reply.
func (w *worker) readPieces(ctx context.Context, r *request) error {
	if err := w.flush(); err != nil {
		return err
	}
	hdr := w.dataHeaderSize()
	if w.pieceSize(cap(w.out)-hdr) == 0 {
		w.mem.growAnyway(w.s.srv.budget)
		w.out = w.mem.bytes()[:0]
	}
	size := uint64(w.pieceSize(cap(w.out) - hdr))
	if !w.s.chunked() || r.flags&FlagDF != 0 {
		return w.readStream(ctx, r, int(size))
	}
	for done := uint64(0); done < r.n; {
		n := min(size, r.n-done)
		piece := request{cmd: cmdRead, off: r.off + done, n: n}
		if err := w.invoke(ctx, &piece, w.out[hdr:hdr+int(n)]); err != nil {
			return w.fail(r, w.translate(r, err))
		}
		var flags uint16
		if done+n == r.n {
			flags = chunkDone
		}
		w.putDataHeader(w.out[:hdr], r, piece.off, int(n), flags)
		w.out = w.out[:hdr+int(n)]
		if err := w.flush(); err != nil {
			return err
		}
		done += n
	}
	return nil
}

// readStream sends one reply in pieces. After the first an error can only be told by hanging up.
func (w *worker) readStream(ctx context.Context, r *request, size int) error {
	hdr := w.dataHeaderSize()
	w.s.wmu.Lock()
	defer w.s.wmu.Unlock()
	for done := 0; done < int(r.n); {
		n := min(size, int(r.n)-done)
		piece := request{cmd: cmdRead, off: r.off + uint64(done), n: uint64(n)}
		if err := w.invoke(ctx, &piece, w.out[hdr:hdr+n]); err != nil {
			w.s.cancel(err)
			return err
		}
		from := hdr
		if done == 0 {
			from = 0
			w.putDataHeader(w.out[:hdr], r, r.off, int(r.n), chunkDone)
		}
		if _, err := w.s.rw.Write(w.out[from : hdr+n]); err != nil {
			w.s.cancel(err)
			return err
		}
		done += n
	}
	return nil
}

// readFilter reads the payload form of NBD_CMD_BLOCK_STATUS and returns the contexts asked for, nil if it is invalid.
func (w *worker) readFilter(r *request) ([]metaContext, error) {
	if err := w.need(int(r.data)); err != nil {
		return nil, err
	}
	p := w.in.next(int(r.data))
	r.n = binary.BigEndian.Uint64(p)
	var picked []metaContext
	seen := make(map[uint32]bool)
	for p = p[8:]; len(p) > 0; p = p[4:] {
		id := binary.BigEndian.Uint32(p)
		if id == 0 || id > uint32(len(w.s.contexts)) || seen[id] {
			return nil, nil
		}
		seen[id] = true
		picked = append(picked, w.s.contexts[id-1])
	}
	return picked, nil
}
