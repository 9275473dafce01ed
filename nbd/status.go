package nbd

import (
	"context"
	"encoding/binary"
)

// maxExtents bounds the extents of one block status reply, over all contexts.
const maxExtents = 8192

// extent is one descriptor of a block status reply.
type extent struct {
	n     uint64
	flags uint32
	ctx   int // index into the contexts asked for
}

// statusQuery is what collect works on, kept in the worker because it runs inside call.
type statusQuery struct {
	contexts []metaContext
	limit    int // extents per context
}

// blockStatus answers NBD_CMD_BLOCK_STATUS.
func (w *worker) blockStatus(ctx context.Context, r *request) error {
	w.query.contexts = w.s.contexts
	if r.flags&flagPayloadLen != 0 {
		picked, err := w.readFilter(r)
		if err != nil {
			return err
		}
		if picked == nil || r.n == 0 {
			return w.fail(r, EINVAL)
		}
		if errno := w.s.checkRange(r, EINVAL); errno != 0 {
			return w.fail(r, errno)
		}
		w.query.contexts = picked
	}
	if _, err := w.room(bigBuffer); err != nil { // as much as there is
		return err
	}
	w.query.limit = min(maxExtents, cap(w.out)/16-4) / len(w.query.contexts)
	if r.flags&FlagReqOne != 0 {
		w.query.limit = 1
	}
	if w.query.limit < 1 {
		return w.fail(r, EINVAL)
	}
	w.yield(nil)
	if err := w.call(ctx, r, nil); err != nil {
		return w.fail(r, w.translate(r, err))
	}
	return w.sendStatus(r)
}

// collect asks the backend for the status of every context.
func (w *worker) collect(ctx context.Context, r *request) error {
	w.extents = w.extents[:0]
	off, n := int64(r.off), int64(r.n)
	for i, c := range w.query.contexts {
		var err error
		f := extentFold{w: w, ctx: i, first: len(w.extents), pos: off, end: off + n}
		switch {
		case c.name != ContextAllocation:
			if w.s.ctxs == nil {
				return EINVAL
			}
			err = w.s.ctxs.ContextStatus(ctx, c.name, off, n, f.visit)
		case w.s.status != nil:
			err = w.s.status.BlockStatus(ctx, off, n, f.visit)
		}
		if err != nil {
			return err
		}
		f.add(f.end, 0)
	}
	return nil
}

// extentFold turns a backend's extents into adjoining ones that differ, clipped to the range.
type extentFold struct {
	w        *worker
	ctx      int
	first    int // of this context in w.extents
	pos, end int64
	full     bool
}

func (f *extentFold) visit(e Extent) bool {
	to := e.Off + e.Len
	if e.Len > 0 && to < e.Off {
		to = f.end
	}
	if to <= f.pos {
		return true
	}
	f.add(min(e.Off, f.end), 0) // what was left out
	f.add(min(to, f.end), e.Flags)
	return !f.full && f.pos < f.end
}

// add describes everything up to to that is not described yet.
func (f *extentFold) add(to int64, flags uint32) {
	n := uint64(to - f.pos)
	if f.full || to <= f.pos {
		return
	}
	list := f.w.extents
	switch last := len(list) - 1; {
	case last >= f.first && list[last].flags == flags:
		list[last].n += n
	case len(list)-f.first >= f.w.query.limit:
		f.full = true
		return
	default:
		f.w.extents = append(list, extent{n: n, flags: flags, ctx: f.ctx})
	}
	f.pos = to
}

// sendStatus queues one chunk per context.
func (w *worker) sendStatus(r *request) error {
	for i, rest := 0, w.extents; i < len(w.query.contexts); i++ {
		n := 0
		for n < len(rest) && rest[n].ctx == i {
			n++
		}
		var flags uint16
		if i == len(w.query.contexts)-1 {
			flags = chunkDone
		}
		if err := w.sendContext(r, w.query.contexts[i].id, rest[:n], flags); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

func (w *worker) sendContext(r *request, id uint32, list []extent, flags uint16) error {
	if w.s.extended {
		n := 8 + 16*len(list)
		b, err := w.extend(extReplySize + n)
		if err != nil {
			return err
		}
		b = b[w.putChunk(b, r, chunkBlockStatusExt, flags, n):]
		binary.BigEndian.PutUint32(b, id)
		binary.BigEndian.PutUint32(b[4:], uint32(len(list)))
		for i, e := range list {
			binary.BigEndian.PutUint64(b[8+16*i:], e.n)
			binary.BigEndian.PutUint64(b[16+16*i:], uint64(e.flags))
		}
		return nil
	}
	n := 4 + 8*len(list)
	b, err := w.extend(chunkSize + n)
	if err != nil {
		return err
	}
	b = b[w.putChunk(b, r, chunkBlockStatus, flags, n):]
	binary.BigEndian.PutUint32(b, id)
	for i, e := range list {
		binary.BigEndian.PutUint32(b[4+8*i:], uint32(e.n))
		binary.BigEndian.PutUint32(b[8+8*i:], e.flags)
	}
	return nil
}
