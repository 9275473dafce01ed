package sync

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	stdsync "sync"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/digest"
)

// gatherAt is how many requests without an answer make one wait for others.
const gatherAt = 8

// DialCurrent is the volume at the other end of conn, where ServeCurrent answers:
// hashes cross it, no data. It owns conn, also when it fails. Close of conn must
// end reads and writes under way.
func DialCurrent(ctx context.Context, conn io.ReadWriteCloser) (Current, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	r := readFrames(conn)
	c, err := greet(conn, r)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, errors.Join(fmt.Errorf("ask for hashes of the replica: %w", err), conn.Close())
	}
	c.owned.Go(func() { c.fail(c.receive(r)) })
	c.owned.Go(func() { c.fail(writeFrames(conn, c.queue, c.done, c.busy)) })
	return c, nil
}

func greet(conn io.ReadWriteCloser, r *frames) (*remote, error) {
	hello := binary.LittleEndian.AppendUint32(append(newFrame(typeHello, helloSize), wireMagic...), wireVersion)
	if _, err := conn.Write(sealFrame(hello)); err != nil {
		return nil, err
	}
	t, body, err := r.read(typeWelcome, typeRefusal)
	if err != nil {
		return nil, err
	}
	if t == typeRefusal {
		_, err := refusal(body)
		return nil, err
	}
	if err := checkHello(r, t, body, welcomeLen); err != nil {
		return nil, err
	}
	body = body[helloSize:]
	size := int64(binary.LittleEndian.Uint64(body))
	if size < 0 {
		return nil, r.wrong(t, "the volume has %d bytes", size)
	}
	h, err := digest.New(digest.Secret(body[8:]))
	if err != nil {
		return nil, err
	}
	c := &remote{conn: conn, size: size, hash: h, queue: make(chan []byte, 64), done: make(chan struct{})}
	c.mu.calls = map[uint64]chan<- reply{}
	return c, nil
}

// checkHello checks what hello and welcome begin with; of our version, they have
// size bytes.
func checkHello(r *frames, t frameType, body []byte, size int) error {
	if !bytes.HasPrefix(body, []byte(wireMagic)) {
		return r.wrong(t, "magic is %q", body[:len(wireMagic)])
	}
	if v := binary.LittleEndian.Uint32(body[len(wireMagic):]); v != wireVersion {
		return fmt.Errorf("%w: it is %d, this rephub knows %d", ErrVersion, v, wireVersion)
	}
	if len(body) != size {
		return r.wrong(t, "it has %d bytes, %d are right", len(body), size)
	}
	return nil
}

// refusal reads what a refusal says, as an error.
func refusal(body []byte) (id uint64, err error) {
	c := cursor{p: body}
	id = c.varint()
	if c.bad {
		return 0, errors.New("a refusal without an id")
	}
	return id, &RefusalError{Reason: string(c.p)}
}

// remote is a Current at the other end of a stream.
type remote struct {
	conn  io.ReadWriteCloser
	size  int64
	hash  *digest.Hasher
	queue chan []byte   // frames to send
	done  chan struct{} // closed when the stream is over
	owned stdsync.WaitGroup

	mu struct {
		stdsync.Mutex
		last  uint64
		calls map[uint64]chan<- reply // of one reply each
		err   error                   // why the stream is over
	}
}

// reply is an answer's body behind the id, or an error.
type reply struct {
	body []byte
	err  error
}

// Size implements Current.
func (c *remote) Size() int64 { return c.size }

// Close implements Current.
func (c *remote) Close() error {
	c.fail(ErrClosed)
	c.owned.Wait()
	return nil
}

// fail ends the stream; the first reason stays.
func (c *remote) fail(err error) {
	c.mu.Lock()
	first := c.mu.err == nil
	if first {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		c.mu.err = err
		close(c.done)
	}
	c.mu.Unlock()
	if first {
		_ = c.conn.Close()
	}
}

// receive hands answers to those who wait for them.
func (c *remote) receive(r *frames) error {
	for {
		t, body, err := r.read(typeAnswer, typeRefusal)
		if err != nil {
			return err
		}
		var id uint64
		var a reply
		if t == typeRefusal {
			if id, a.err = refusal(body); id == 0 {
				return a.err
			}
		} else {
			cur := cursor{p: body}
			if id = cur.varint(); cur.bad {
				return r.wrong(t, "it has no id")
			}
			a.body = bytes.Clone(cur.p)
		}
		c.mu.Lock()
		call, ok := c.mu.calls[id]
		delete(c.mu.calls, id)
		asked := id <= c.mu.last
		c.mu.Unlock()
		if !asked {
			return r.wrong(t, "nobody has asked with the id %d", id)
		}
		if ok { // else whoever asked has gone
			call <- a
		}
	}
}

// ask sends a request about r and waits for its answer.
func (c *remote) ask(ctx context.Context, t frameType, r block.Range, sums []digest.Sum) ([]byte, error) {
	answer := make(chan reply, 1)
	c.mu.Lock()
	c.mu.last++
	id := c.mu.last
	c.mu.calls[id] = answer
	c.mu.Unlock()
	p := appendPlace(newFrame(t, 24+len(sums)*digest.Size), id, r)
	for i := range sums {
		p = append(p, sums[i][:]...)
	}
	select {
	case c.queue <- sealFrame(p):
	case <-c.done:
		return nil, c.over()
	case <-ctx.Done():
		c.forget(id)
		return nil, context.Cause(ctx)
	}
	select {
	case a := <-answer:
		return a.body, a.err
	case <-ctx.Done():
		c.forget(id)
		return nil, context.Cause(ctx)
	case <-c.done:
	}
	select {
	case a := <-answer: // it was the last one
		return a.body, a.err
	default:
		return nil, c.over()
	}
}

// busy tells whether so much is asked that more will be soon.
func (c *remote) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.mu.calls) >= gatherAt
}

func (c *remote) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.mu.calls, id)
}

func (c *remote) over() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.err
}

// Differing implements Current.
func (c *remote) Differing(ctx context.Context, off, n int64, data []byte, dst []block.Range) ([]block.Range, error) {
	r := block.Range{Off: off, Len: n}
	if off < 0 || off%Block != 0 || n < 0 || off > c.size-n || n%Block != 0 && r.End() != c.size || data != nil && int64(len(data)) != n {
		return dst, fmt.Errorf("compare %d bytes at %d, %d of them given: not whole blocks of a volume of %d", n, off, len(data), c.size)
	}
	var err error
	if data == nil {
		for !r.Empty() && err == nil {
			dst, r, err = c.zeroes(ctx, r, dst)
		}
		return dst, err
	}
	err = split(r, maxCompare, func(r block.Range) error {
		blocks := c.hash.AppendBlocks(make([]digest.Sum, 0, blocksIn(r.Len)), data[r.Off-off:r.End()-off])
		dst, err = c.differing(ctx, r, blocks, dst)
		return err
	})
	return dst, err
}

// differing asks which blocks of r, which is no longer than a request, have other hashes.
func (c *remote) differing(ctx context.Context, r block.Range, blocks []digest.Sum, dst []block.Range) ([]block.Range, error) {
	sums := make([]digest.Sum, 0, pieces(r))
	_ = eachPiece(r, func(_ int, p block.Range) error {
		sums = append(sums, c.hash.Join(blocks[(p.Off-r.Off)/Block:][:blocksIn(p.Len)]))
		return nil
	})
	body, err := c.ask(ctx, typeCompare, r, sums)
	if err != nil {
		return dst, err
	}
	out, ok := readDiffering(body, r, blocks, dst)
	if !ok {
		err := &WireError{Type: uint8(typeAnswer), Detail: fmt.Sprintf("%d bytes do not answer about %d bytes at %d", len(body), r.Len, r.Off)}
		c.fail(err)
		return dst, err
	}
	return out, nil
}

// readDiffering reads the answer to compare; false: it is none.
func readDiffering(body []byte, r block.Range, blocks []digest.Sum, dst []block.Range) (_ []block.Range, ok bool) {
	c := cursor{p: body}
	if c.varint() != uint64(len(blocks)) {
		return dst, false
	}
	n := pieces(r)
	bits := c.bytes((n + 7) / 8)
	if c.bad || n%8 != 0 && bits[n/8]>>(n%8) != 0 {
		return dst, false
	}
	_ = eachPiece(r, func(i int, p block.Range) error {
		if bits[i/8]>>(i%8)&1 == 0 {
			return nil
		}
		mine := blocks[(p.Off-r.Off)/Block:][:blocksIn(p.Len)]
		found := len(mine) == 1
		if found {
			dst = appendRange(dst, p)
			return nil
		}
		tags := c.bytes(len(mine) * tagSize)
		if c.bad {
			return nil
		}
		for k := range mine {
			if !bytes.Equal(mine[k][:tagSize], tags[k*tagSize:][:tagSize]) {
				b := block.Range{Off: p.Off + int64(k)*Block, Len: Block}
				dst = appendRange(dst, b.Intersect(p))
				found = true
			}
		}
		if !found { // it has changed between two looks, or tags are too short for once
			dst = appendRange(dst, p)
		}
		return nil
	})
	return dst, !c.bad && len(c.p) == 0
}

// zeroes asks which blocks of r are not zeroes, and returns what is left of r.
func (c *remote) zeroes(ctx context.Context, r block.Range, dst []block.Range) ([]block.Range, block.Range, error) {
	body, err := c.ask(ctx, typeZeroes, r, nil)
	if err != nil {
		return dst, r, err
	}
	out, done, ok := readRows(body, r, dst)
	if !ok {
		err := &WireError{Type: uint8(typeAnswer), Detail: fmt.Sprintf("%d bytes do not answer about zeroes, %d bytes at %d", len(body), r.Len, r.Off)}
		c.fail(err)
		return dst, r, err
	}
	return out, block.Range{Off: r.Off + done, Len: r.Len - done}, nil
}

// readRows reads the answer to zeroes; false: it is none.
func readRows(body []byte, r block.Range, dst []block.Range) (_ []block.Range, done int64, ok bool) {
	c := cursor{p: body}
	n := c.varint()
	if c.bad || n == 0 || n > uint64(blocksIn(r.Len)) {
		return dst, 0, false
	}
	at := uint64(0)
	for len(c.p) > 0 {
		skip, row := c.varint(), c.varint()
		if c.bad || row == 0 || skip > n-at || row > n-at-skip {
			return dst, 0, false
		}
		at += skip
		b := block.Range{Off: r.Off + int64(at)*Block, Len: int64(row) * Block}
		dst = appendRange(dst, b.Intersect(r))
		at += row
	}
	return dst, min(int64(n)*Block, r.Len), true
}
