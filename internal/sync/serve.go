package sync

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	stdsync "sync"

	"golang.org/x/sync/errgroup"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/digest"
)

// Hasher is a replica's volume, as the journal has it at each call, by its
// hashes. Methods are called concurrently.
type Hasher interface {
	// Size is the volume's length in bytes.
	Size() int64
	// Secret is the key of the hashes.
	Secret() digest.Secret
	// Extents tells which bytes of [off, off+n) are holes, in order, all covered.
	Extents(off, n int64) ([]block.Extent, error)
	// Pieces appends the hash (digest.Join of the blocks') of each part of r, cut
	// at multiples of digest.Chunk. r begins at a block and ends at one or with the
	// volume.
	Pieces(ctx context.Context, r block.Range, dst []digest.Sum) ([]digest.Sum, error)
	// Blocks appends the hash of each block of such an r.
	Blocks(ctx context.Context, r block.Range, dst []digest.Sum) ([]digest.Sum, error)
}

const (
	serveWorkers = 8        // requests worked on at a time; more wait in the stream
	zeroStep     = 64 << 20 // bytes whose extents are asked at a time
	zeroWork     = 16 << 20 // bytes of data looked at before an answer to zeroes stops
)

// ServeCurrent answers DialCurrent until the other end closes the stream, which
// gives nil, ctx ends, or something fails. It owns conn; Close of conn must end
// reads and writes under way. What a peer sends costs a bounded amount of memory.
func ServeCurrent(ctx context.Context, conn io.ReadWriteCloser, h Hasher) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	s := &server{h: h, size: h.Size(), queue: make(chan []byte, serveWorkers), free: make(chan struct{}, serveWorkers)}
	g.Go(func() error {
		return writeFrames(conn, s.queue, ctx.Done(), func() bool { return len(s.free) >= serveWorkers/2 })
	})
	g.Go(func() error { return s.receive(ctx, conn, g) })
	err := g.Wait()
	stop()
	_ = conn.Close()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// server is one stream.
type server struct {
	h     Hasher
	size  int64
	hash  *digest.Hasher
	queue chan []byte
	free  chan struct{} // a token for each request worked on
}

// request is one of the client's; they are pooled.
type request struct {
	id   uint64
	r    block.Range
	sums []digest.Sum // none: zeroes

	pieces, blocks []digest.Sum // scratch
}

var requests = stdsync.Pool{New: func() any { return new(request) }}

// receive reads requests and has them answered. It ends with io.EOF when the
// client has closed the stream in order.
func (s *server) receive(ctx context.Context, conn io.ReadWriter, g *errgroup.Group) error {
	r := readFrames(conn)
	if err := s.greet(ctx, conn, r); err != nil {
		return err
	}
	for {
		select {
		case s.free <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		t, body, err := r.read(typeCompare, typeZeroes)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		q := requests.Get().(*request)
		if !q.decode(t, body, s.size) {
			return r.wrong(t, "it does not ask about blocks of a volume of %d bytes", s.size)
		}
		g.Go(func() error {
			defer func() { requests.Put(q); <-s.free }()
			return s.answer(ctx, q)
		})
	}
}

func (s *server) greet(ctx context.Context, conn io.Writer, r *frames) error {
	t, body, err := r.read(typeHello)
	if err != nil {
		return err
	}
	if err := checkHello(r, t, body, helloSize); err != nil {
		_, werr := conn.Write(sealFrame(refuse(0, err))) // now: the stream ends with the return
		return errors.Join(err, werr)
	}
	secret := s.h.Secret()
	if s.hash, err = digest.New(secret); err != nil {
		return err
	}
	p := binary.LittleEndian.AppendUint32(append(newFrame(typeWelcome, welcomeLen), wireMagic...), wireVersion)
	p = binary.LittleEndian.AppendUint64(p, uint64(s.size))
	return s.send(ctx, append(p, secret[:]...))
}

// refuse makes a refusal, not sealed.
func refuse(id uint64, err error) []byte {
	text := err.Error()
	p := binary.AppendUvarint(newFrame(typeRefusal, 16+maxReason), id)
	return append(p, text[:min(len(text), maxReason)]...)
}

// send seals a frame and hands it to the writer.
func (s *server) send(ctx context.Context, p []byte) error {
	select {
	case s.queue <- sealFrame(p):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// decode reads a request about a volume of size bytes; false: it is none.
func (q *request) decode(t frameType, body []byte, size int64) bool {
	c := cursor{p: body}
	q.id, q.r = c.place(size)
	q.sums = q.sums[:0]
	if c.bad || t == typeZeroes {
		return !c.bad && len(c.p) == 0
	}
	if q.r.Len > maxCompare || len(c.p) != pieces(q.r)*digest.Size {
		return false
	}
	for len(c.p) > 0 {
		q.sums = append(q.sums, digest.Sum(c.bytes(digest.Size)))
	}
	return true
}

// answer sends an answer, or a refusal if the replica cannot be read.
func (s *server) answer(ctx context.Context, q *request) error {
	var p []byte
	var err error
	if len(q.sums) > 0 {
		p, err = s.compare(ctx, q)
	} else {
		p, err = s.zeroes(ctx, q)
	}
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p = refuse(q.id, err)
	}
	return s.send(ctx, p)
}

// answerTo begins an answer about n bytes.
func answerTo(q *request, n int64, room int) []byte {
	p := binary.AppendUvarint(newFrame(typeAnswer, 16+room), q.id)
	return binary.AppendUvarint(p, uint64(blocksIn(n)))
}

// compare tells which pieces differ, and the tags of their blocks.
func (s *server) compare(ctx context.Context, q *request) ([]byte, error) {
	var err error
	if q.pieces, err = s.h.Pieces(ctx, q.r, q.pieces[:0]); err != nil {
		return nil, err
	}
	if len(q.pieces) != len(q.sums) {
		return nil, fmt.Errorf("hash %d bytes at %d: %d hashes of %d", q.r.Len, q.r.Off, len(q.pieces), len(q.sums))
	}
	p := answerTo(q, q.r.Len, 8)
	bits := len(p)
	p = append(p, make([]byte, (len(q.sums)+7)/8)...)
	err = eachPiece(q.r, func(i int, piece block.Range) error {
		if q.pieces[i] == q.sums[i] {
			return nil
		}
		p[bits+i/8] |= 1 << (i % 8)
		if piece.Len <= Block {
			return nil
		}
		if q.blocks, err = s.h.Blocks(ctx, piece, q.blocks[:0]); err != nil {
			return err
		}
		for i := range q.blocks {
			p = append(p, q.blocks[i][:tagSize]...)
		}
		return nil
	})
	return p, err
}

// rows gathers the blocks of a request that are not zeroes.
type rows struct {
	*server
	q    *request
	p    []byte      // the answer's rows
	row  block.Range // the last one, not in p yet
	at   int64       // what is in p, and before it, ends here
	seen int64       // bytes of data looked at
}

// zeroes tells which blocks of the request are not zeroes, as far as it gets.
func (s *server) zeroes(ctx context.Context, q *request) ([]byte, error) {
	w := &rows{server: s, q: q, at: q.r.Off}
	done := q.r.Off // blocks before it have been looked at
	for done < q.r.End() && !w.enough() {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		step := block.Range{Off: done, Len: min(q.r.End()-done, zeroStep)}
		extents, err := s.h.Extents(step.Off, step.Len)
		if err != nil {
			return nil, err
		}
		before := done
		for _, e := range extents {
			end := blockEnd(e, step.End())
			if end <= done {
				continue
			}
			if done, err = w.visit(ctx, done, end, e.Hole); err != nil {
				return nil, err
			}
			if w.enough() {
				break
			}
		}
		if done == before {
			return nil, fmt.Errorf("find data in %d bytes at %d: no extents", step.Len, step.Off)
		}
	}
	w.flush()
	return append(answerTo(q, done-q.r.Off, len(w.p)), w.p...), nil
}

// enough tells that the answer is long, or has taken long.
func (w *rows) enough() bool {
	return w.seen >= zeroWork || len(w.p) > maxAnswer-8*binary.MaxVarintLen64
}

// visit adds what is not zero from off, where a block begins, up to end, and
// returns how far it got.
func (w *rows) visit(ctx context.Context, off, end int64, hole bool) (int64, error) {
	if hole {
		return end, nil
	}
	for off < end && !w.enough() {
		piece := block.Range{Off: off, Len: min(off/digest.Chunk*digest.Chunk+digest.Chunk, end) - off}
		if err := w.piece(ctx, piece); err != nil {
			return off, err
		}
		off = piece.End()
	}
	return off, nil
}

// piece adds what is not zero in one piece.
func (w *rows) piece(ctx context.Context, piece block.Range) (err error) {
	q := w.q
	w.seen += piece.Len
	if q.pieces, err = w.h.Pieces(ctx, piece, q.pieces[:0]); err != nil || q.pieces[0] == w.hash.Zeroes(piece.Len) {
		return err
	}
	if q.blocks, err = w.h.Blocks(ctx, piece, q.blocks[:0]); err != nil {
		return err
	}
	for i, sum := range q.blocks {
		b := block.Range{Off: piece.Off + int64(i)*Block, Len: Block}.Intersect(piece)
		if zero := w.hash.ZeroBlock(); sum == zero || b.Len < Block && sum == w.hash.AppendZeroes(nil, b.Len)[0] {
			continue
		}
		if w.row.End() == b.Off && !w.row.Empty() {
			w.row.Len += b.Len
			continue
		}
		w.flush()
		w.row = b
	}
	return nil
}

// flush puts the row into the answer.
func (w *rows) flush() {
	if w.row.Empty() {
		return
	}
	w.p = binary.AppendUvarint(w.p, uint64((w.row.Off-w.at)/Block))
	w.p = binary.AppendUvarint(w.p, uint64(blocksIn(w.row.Len)))
	w.at, w.row = w.row.End(), block.Range{}
}
