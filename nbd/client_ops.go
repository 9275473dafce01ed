package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	maxPiece        = 32 << 20 // bytes of one read or write, if the server allows as much
	maxClearPiece   = 1 << 30  // bytes of one request without data
	maxStatusPieces = 4 << 20  // extents that BlockStatus collects
)

// split calls f for pieces of [off, off+n) of at most limit bytes, rounded down to the export's minimum block.
func (c *Client) split(op string, off, n int64, limit uint32, f func(off, n int64) error) error {
	if off < 0 || n < 0 || off > c.info.Size || n > c.info.Size-off {
		return fmt.Errorf("%s %d bytes at %d of %d: %w", op, n, off, c.info.Size, EINVAL)
	}
	size := int64(limit &^ (c.info.MinBlock - 1))
	for done := int64(0); done < n; {
		m := min(size, n-done)
		if err := f(off+done, m); err != nil {
			return fmt.Errorf("%s %d bytes at %d: %w", op, m, off+done, err)
		}
		done += m
	}
	return nil
}

// need checks that the server offers what a request needs.
func (c *Client) need(want TransmissionFlags, f CommandFlags) error {
	if f&FlagFUA != 0 {
		want |= SendFUA
	}
	if f&FlagFastZero != 0 {
		want |= SendFastZero
	}
	if c.info.Flags&want != want {
		return ErrNotOffered
	}
	return nil
}

// ReadAt fills p from byte off. Reads larger than the server's maximum are split. p is the caller's again on return, also when
// ctx ends first; after an error its content is undefined.
func (c *Client) ReadAt(ctx context.Context, p []byte, off int64) error {
	start := off
	return c.split("read", off, int64(len(p)), min(c.info.MaxBlock, maxPiece), func(off, n int64) error {
		at := off - start
		return c.do(ctx, &call{cmd: cmdRead, off: uint64(off), n: uint64(n), buf: p[at : at+n]}, nil)
	})
}

// WriteAt writes p at byte off. f may hold FlagFUA: the server has it on stable storage on return. Without, a later Flush does
// that. Writes larger than the server's maximum are split. p is the caller's again on return, also when ctx ends first; then it
// is unknown whether the write happens, or when.
func (c *Client) WriteAt(ctx context.Context, p []byte, off int64, f CommandFlags) error {
	if err := c.writable("write", 0, f); err != nil {
		return err
	}
	start := off
	return c.split("write", off, int64(len(p)), min(c.info.MaxBlock, maxPiece), func(off, n int64) error {
		at := off - start
		return c.do(ctx, &call{cmd: cmdWrite, flags: f & FlagFUA, off: uint64(off), n: uint64(n)}, p[at:at+n])
	})
}

func (c *Client) writable(op string, want TransmissionFlags, f CommandFlags) error {
	if c.info.Flags&ReadOnly != 0 {
		return fmt.Errorf("%s on a read-only export: %w", op, EPERM)
	}
	if err := c.need(want, f); err != nil {
		return fmt.Errorf("%s with flags %#x: %w", op, uint16(f), err)
	}
	return nil
}

// Zero makes n bytes at off read as zeroes. f may hold FlagFUA, FlagNoHole and FlagFastZero.
func (c *Client) Zero(ctx context.Context, off, n int64, f CommandFlags) error {
	if err := c.writable("write zeroes", SendWriteZeroes, f); err != nil {
		return err
	}
	return c.split("write zeroes", off, n, maxClearPiece, func(off, n int64) error {
		return c.do(ctx, &call{cmd: cmdWriteZeroes, flags: f & (FlagFUA | FlagNoHole | FlagFastZero), off: uint64(off), n: uint64(n)}, nil)
	})
}

// Trim says that n bytes at off are no longer needed. f may hold FlagFUA.
func (c *Client) Trim(ctx context.Context, off, n int64, f CommandFlags) error {
	if err := c.writable("trim", SendTrim, f); err != nil {
		return err
	}
	return c.split("trim", off, n, maxClearPiece, func(off, n int64) error {
		return c.do(ctx, &call{cmd: cmdTrim, flags: f & FlagFUA, off: uint64(off), n: uint64(n)}, nil)
	})
}

// Flush makes durable every write that has returned before.
func (c *Client) Flush(ctx context.Context) error {
	if err := c.need(SendFlush, 0); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	if err := c.do(ctx, &call{cmd: cmdFlush}, nil); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// Cache says that n bytes at off will be read soon.
func (c *Client) Cache(ctx context.Context, off, n int64) error {
	if err := c.need(SendCache, 0); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return c.split("cache", off, n, min(c.info.MaxBlock, maxClearPiece), func(off, n int64) error {
		return c.do(ctx, &call{cmd: cmdCache, off: uint64(off), n: uint64(n)}, nil)
	})
}

// BlockStatus returns the extents of [off, off+n) in a metadata context that was selected with DialOptions.Contexts: ascending,
// adjoining, covering the range. For ranges with millions of extents there is VisitStatus.
func (c *Client) BlockStatus(ctx context.Context, name string, off, n int64) ([]Extent, error) {
	var list []Extent
	tooMany := false
	err := c.VisitStatus(ctx, name, off, n, func(e Extent) bool {
		if last := len(list) - 1; last >= 0 && list[last].Flags == e.Flags {
			list[last].Len += e.Len
			return true
		}
		list = append(list, e)
		tooMany = len(list) > maxStatusPieces
		return !tooMany
	})
	if err == nil && tooMany {
		err = fmt.Errorf("block status of %d bytes at %d: more than %d extents", n, off, maxStatusPieces)
	}
	if err != nil {
		return nil, err
	}
	return list, nil
}

// errEnough ends VisitStatus when the visitor wants no more.
var errEnough = errors.New("visitor wants no more")

// VisitStatus calls visit for the extents of [off, off+n) in a metadata context, ascending and adjoining, until visit returns
// false. Neighbours may have the same flags.
func (c *Client) VisitStatus(ctx context.Context, name string, off, n int64, visit func(Extent) bool) error {
	var id uint32
	found := false
	for _, m := range c.contexts {
		if m.name == name {
			id, found = m.id, true
		}
	}
	if !found {
		return fmt.Errorf("block status in context %q: %w", name, ErrNotOffered)
	}
	limit := uint32(maxClearPiece) // what fits the length field, a multiple of any minimum block
	err := c.split("block status", off, n, limit, func(off, n int64) error {
		for n > 0 {
			list, err := c.statusOnce(ctx, id, off, n)
			if err != nil {
				return err
			}
			for _, e := range list {
				if !visit(e) {
					return errEnough
				}
				off += e.Len
				n -= e.Len
			}
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// statusOnce returns the extents of one reply, at least one, none beyond the request.
func (c *Client) statusOnce(ctx context.Context, id uint32, off, n int64) ([]Extent, error) {
	var list []Extent
	k := &call{cmd: cmdBlockStatus, off: uint64(off), n: uint64(n), status: make(map[uint32]bool), visit: make(map[uint32]func([]Extent))}
	for _, m := range c.contexts {
		k.visit[m.id] = nil
	}
	var payload []byte
	if c.info.Flags&BlockStatusPayload != 0 && len(c.contexts) > 1 {
		clear(k.visit)
		payload = binary.BigEndian.AppendUint64(nil, uint64(n))
		payload = binary.BigEndian.AppendUint32(payload, id)
	}
	k.visit[id] = func(l []Extent) { list = l }
	if err := c.do(ctx, k, payload); err != nil {
		return nil, err
	}
	return list, nil
}
