package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// maxReplyExtents bounds the extents in one chunk, as the specification asks servers to.
const maxReplyExtents = 1 << 20

// readReplies is the reader goroutine.
func (c *Client) readReplies() {
	for {
		if err := c.readReply(); err != nil {
			c.fail(err)
			return
		}
	}
}

// chunk is a reply header of any form.
type chunk struct {
	flags uint16
	t     chunkType
	n     uint64 // payload bytes
}

// readReply reads one simple reply or one chunk with its payload.
func (c *Client) readReply() error {
	var b [extReplySize]byte
	if _, err := io.ReadFull(c.r, b[:simpleReplySize]); err != nil {
		return fmt.Errorf("read reply: %w", noEOF(err))
	}
	k := c.lookup(binary.BigEndian.Uint64(b[8:]))
	if k == nil {
		return violation("reply to a request that is not in flight")
	}
	switch magic := binary.BigEndian.Uint32(b[:]); {
	case magic == magicSimple && !c.info.ExtendedHeaders:
		return c.simpleReply(k, Errno(binary.BigEndian.Uint32(b[4:])))
	case magic == magicChunk && c.info.Structured, magic == magicExtReply && c.info.ExtendedHeaders:
	default:
		return violation("reply magic %#x", magic)
	}
	h := chunk{flags: binary.BigEndian.Uint16(b[4:]), t: chunkType(binary.BigEndian.Uint16(b[6:]))}
	size := chunkSize
	if c.info.ExtendedHeaders {
		size = extReplySize
	}
	if _, err := io.ReadFull(c.r, b[simpleReplySize:size]); err != nil {
		return fmt.Errorf("read reply: %w", noEOF(err))
	}
	if c.info.ExtendedHeaders {
		if binary.BigEndian.Uint64(b[16:]) != k.off {
			return violation("reply to another offset")
		}
		h.n = binary.BigEndian.Uint64(b[24:])
	} else {
		h.n = uint64(binary.BigEndian.Uint32(b[16:]))
	}
	return c.chunkReply(k, h)
}

// simpleReply handles a simple reply.
func (c *Client) simpleReply(k *call, errno Errno) error {
	switch {
	case errno != 0:
		k.failed = c.refusal(errno, "")
	case k.cmd == cmdRead && c.info.Structured, k.cmd == cmdBlockStatus:
		return violation("simple reply where chunks are due")
	case k.cmd == cmdRead:
		if err := c.payload(k, 0, k.n); err != nil {
			return err
		}
	}
	c.finish(k)
	return nil
}

// refusal is the error of a request that the server refused. Numbers that are not in the specification count as EINVAL.
func (c *Client) refusal(errno Errno, message string) error {
	if !errno.valid() {
		message, errno = fmt.Sprintf("error %d: %s", uint32(errno), message), EINVAL
	}
	return &RequestError{Errno: errno, Message: message}
}

// payload passes n bytes of input to a read: what is there already through the input buffer, long rests straight to the caller's.
func (c *Client) payload(k *call, at, n uint64) error {
	for n > 0 {
		if c.r.Buffered() == 0 && n >= clientBuffer {
			m, err := c.fill(k, at, n)
			if err != nil {
				return err
			}
			at, n = at+m, n-m
			if m > 0 {
				continue
			}
		}
		if c.r.Buffered() == 0 {
			if _, err := c.r.Peek(1); err != nil {
				return fmt.Errorf("read data: %w", noEOF(err))
			}
		}
		p, _ := c.r.Peek(int(min(n, uint64(c.r.Buffered()))))
		k.deliver(at, p)
		c.r.Discard(len(p))
		at += uint64(len(p))
		n -= uint64(len(p))
	}
	return nil
}

// fill reads once into the caller's buffer. It returns 0 if the caller has gone, or goes before anything comes.
func (c *Client) fill(k *call, at, n uint64) (uint64, error) {
	p := k.lend(at, n)
	if p == nil {
		return 0, nil
	}
	m, err := c.conn.Read(p)
	interrupted := k.takeBack(func() { c.conn.SetReadDeadline(time.Time{}) })
	if m > 0 || interrupted && errors.Is(err, os.ErrDeadlineExceeded) {
		return uint64(m), nil // an error comes again
	}
	return 0, fmt.Errorf("read data: %w", noEOF(err))
}

// interrupt makes a read of the connection that is under way return.
func (c *Client) interrupt() { c.conn.SetReadDeadline(aLongTimeAgo) }

// chunkReply handles one chunk.
func (c *Client) chunkReply(k *call, h chunk) error {
	last := h.flags&chunkDone != 0
	var err error
	switch {
	case h.t == chunkNone:
		if h.n != 0 || !last {
			return violation("NBD_REPLY_TYPE_NONE of %d bytes, last %t", h.n, last)
		}
	case h.t == chunkData && k.cmd == cmdRead:
		err = c.dataChunk(k, h)
	case h.t == chunkHole && k.cmd == cmdRead:
		err = c.holeChunk(k, h)
	case h.t == chunkBlockStatus && k.cmd == cmdBlockStatus && !c.info.ExtendedHeaders,
		h.t == chunkBlockStatusExt && k.cmd == cmdBlockStatus && c.info.ExtendedHeaders:
		err = c.statusChunk(k, h)
	case h.t&chunkErrBit != 0:
		err = c.errorChunk(k, h)
	default:
		return violation("chunk of type %d in reply to command %d", h.t, k.cmd)
	}
	if err != nil || !last {
		return err
	}
	switch {
	case k.failed != nil:
	case k.cmd == cmdRead && !k.whole():
		return violation("reply to a read without all of its data")
	case k.cmd == cmdBlockStatus && len(k.status) != len(k.visit):
		return violation("block status for %d of %d contexts", len(k.status), len(k.visit))
	}
	c.finish(k)
	return nil
}

// within checks that a content chunk lies in the read and brings something new, and returns where.
func (k *call) within(off, n uint64) (at uint64, err error) {
	at = off - k.off
	if off < k.off || n == 0 || n > k.n || at > k.n-n {
		return 0, violation("chunk outside of its request")
	}
	if !k.cover(at, at+n) {
		return 0, violation("overlapping or too many chunks")
	}
	return at, nil
}

func (c *Client) dataChunk(k *call, h chunk) error {
	var b [8]byte
	if h.n < 9 {
		return violation("data chunk of %d bytes", h.n)
	}
	if _, err := io.ReadFull(c.r, b[:]); err != nil {
		return fmt.Errorf("read data chunk: %w", noEOF(err))
	}
	at, err := k.within(binary.BigEndian.Uint64(b[:]), h.n-8)
	if err != nil {
		return err
	}
	return c.payload(k, at, h.n-8)
}

func (c *Client) holeChunk(k *call, h chunk) error {
	var b [12]byte
	if h.n != 12 {
		return violation("hole chunk of %d bytes", h.n)
	}
	if _, err := io.ReadFull(c.r, b[:]); err != nil {
		return fmt.Errorf("read hole chunk: %w", noEOF(err))
	}
	n := uint64(binary.BigEndian.Uint32(b[8:]))
	at, err := k.within(binary.BigEndian.Uint64(b[:]), n)
	if err == nil {
		k.deliverZeroes(at, n)
	}
	return err
}

// errorChunk keeps the first error of a reply.
func (c *Client) errorChunk(k *call, h chunk) error {
	fixed := uint64(6)
	if h.t == chunkErrorOffset {
		fixed = 14
	}
	if h.n < fixed || h.n > fixed+maxString+64 {
		return violation("error chunk of %d bytes", h.n)
	}
	b := make([]byte, h.n)
	if _, err := io.ReadFull(c.r, b); err != nil {
		return fmt.Errorf("read error chunk: %w", noEOF(err))
	}
	errno := Errno(binary.BigEndian.Uint32(b))
	n := uint64(binary.BigEndian.Uint16(b[4:]))
	if errno == 0 || n > h.n-fixed {
		return violation("error chunk with error %d and a message of %d bytes", uint32(errno), n)
	}
	if h.t == chunkErrorOffset {
		if off := binary.BigEndian.Uint64(b[6+n:]); off < k.off || off-k.off > k.n {
			return violation("error at an offset outside of its request")
		}
	}
	if k.failed == nil {
		k.failed = c.refusal(errno, string(b[6:6+n]))
	}
	return nil
}

// statusChunk passes the extents of one context on.
func (c *Client) statusChunk(k *call, h chunk) error {
	head, each := uint64(4), uint64(8)
	if c.info.ExtendedHeaders {
		head, each = 8, 16
	}
	if h.n < head+each || (h.n-head)%each != 0 || (h.n-head)/each > maxReplyExtents {
		return violation("block status chunk of %d bytes", h.n)
	}
	b := make([]byte, 16)
	if _, err := io.ReadFull(c.r, b[:head]); err != nil {
		return fmt.Errorf("read block status: %w", noEOF(err))
	}
	count := (h.n - head) / each
	id := binary.BigEndian.Uint32(b)
	take, known := k.visit[id]
	switch {
	case !known || k.status[id]:
		return violation("block status for context %d, unknown or repeated", id)
	case head == 8 && uint64(binary.BigEndian.Uint32(b[4:])) != count:
		return violation("block status whose count is wrong")
	}
	k.status[id] = true
	var list []Extent
	pos := k.off
	for i := range count {
		if _, err := io.ReadFull(c.r, b[:each]); err != nil {
			return fmt.Errorf("read block status: %w", noEOF(err))
		}
		n, flags := uint64(binary.BigEndian.Uint32(b)), uint64(binary.BigEndian.Uint32(b[4:]))
		if each == 16 {
			n, flags = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
		}
		if err := k.checkExtent(pos, n, i, count); err != nil {
			return err
		}
		if flags > 1<<32-1 {
			return violation("block status flags %#x", flags)
		}
		if take != nil {
			list = append(list, Extent{Off: int64(pos), Len: int64(min(n, k.off+k.n-pos)), Flags: uint32(flags)})
		}
		pos += n
	}
	if take != nil {
		take(list)
	}
	return nil
}

// checkExtent checks extent i of count: only the last may reach beyond the request.
func (k *call) checkExtent(pos, n, i, count uint64) error {
	end := k.off + k.n
	switch {
	case n == 0, i+1 < count && n >= end-pos:
		return violation("block status extent %d of %d is %d bytes at %d", i, count, n, pos)
	case k.flags&FlagReqOne != 0 && (count != 1 || n > k.n):
		return violation("more block status than asked for")
	}
	return nil
}
