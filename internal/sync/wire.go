package sync

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/digest"
)

// The stream between DialCurrent and ServeCurrent. Fixed numbers are
// little-endian; a varint is that of encoding/binary, unsigned. A frame is
//
//	0  3  length of the body
//	3  1  type
//	4  4  crc32c of the four bytes before and the body
//	8     body
//
// and its types are
//
//	1  hello    client, first: magic "rephubCU", version (4)
//	2  welcome  server, first: magic, version (4), size of the volume in bytes (8), secret (32)
//	3  compare  client: id, first block, blocks (varints), the hash (16) of each piece
//	4  zeroes   client: id, first block, blocks (varints)
//	5  answer   server: id, blocks answered (varints), then what differs in them.
//	            To compare: a bit per piece, lowest first, set if it differs; for each
//	            piece of more than one block that differs, a tag (8) per block: the
//	            first bytes of its hash.
//	            To zeroes: rows of blocks that are not zeroes, as blocks skipped and
//	            blocks in the row (varints), to the end of the body.
//	6  refusal  server: id (varint; 0: everything), reason (text)
//
// A block is 4 KiB; the volume's last one may be shorter. Pieces are the parts of
// a request, cut at multiples of 64 KiB; their hashes are digest.Join of their
// blocks'. An answer to zeroes may stop early, and says so. Ids are the client's
// choice, not 0, and unique among what is not answered; answers come in any order.
const (
	wireMagic   = "rephubCU"
	wireVersion = 2

	frameHead  = 8
	tagSize    = 8
	maxCompare = 4 << 20  // bytes of the volume in one request
	maxAnswer  = 16 << 10 // bytes of an answer's body
	maxReason  = 512      // bytes of text
	helloSize  = len(wireMagic) + 4
	welcomeLen = helloSize + 8 + len(digest.Secret{})
)

type frameType uint8

const (
	typeHello   frameType = 1
	typeWelcome frameType = 2
	typeCompare frameType = 3
	typeZeroes  frameType = 4
	typeAnswer  frameType = 5
	typeRefusal frameType = 6
)

// limits of the body's length.
var limits = map[frameType][2]int{
	typeHello:   {helloSize, helloSize + maxReason}, // of other versions, too
	typeWelcome: {helloSize, welcomeLen + maxReason},
	typeCompare: {3 + digest.Size, 3*binary.MaxVarintLen64 + (maxCompare/digest.Chunk+1)*digest.Size},
	typeZeroes:  {3, 3 * binary.MaxVarintLen64},
	typeAnswer:  {2, maxAnswer},
	typeRefusal: {1, binary.MaxVarintLen64 + maxReason},
}

// Errors callers branch on.
var (
	// ErrClosed: the Current was closed.
	ErrClosed = errors.New("connection to the replica is closed")
	// ErrVersion: the peer speaks a version of the stream that this program does not know.
	ErrVersion = errors.New("version is not supported")
)

// WireError is a frame of the stream that cannot be.
type WireError struct {
	Offset int64 // of the frame's first byte in the stream
	Type   uint8
	Detail string
}

func (e *WireError) Error() string {
	return fmt.Sprintf("frame of type %d at byte %d of the stream: %s", e.Type, e.Offset, e.Detail)
}

// RefusalError is why the other side could not answer.
type RefusalError struct{ Reason string }

func (e *RefusalError) Error() string { return "the hub refused: " + e.Reason }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// newFrame is a frame's header with room for a body to append; see sealFrame.
func newFrame(t frameType, room int) []byte {
	p := make([]byte, frameHead, frameHead+room)
	p[3] = byte(t)
	return p
}

// sealFrame completes the frame, whose body has been appended.
func sealFrame(p []byte) []byte {
	n := len(p) - frameHead
	p[0], p[1], p[2] = byte(n), byte(n>>8), byte(n>>16)
	sum := crc32.Update(crc32.Checksum(p[:4], castagnoli), castagnoli, p[frameHead:])
	binary.LittleEndian.PutUint32(p[4:], sum)
	return p
}

// frames reads frames. It allocates no more than the longest one that can be.
type frames struct {
	r    *bufio.Reader
	at   int64 // of the frame read last
	next int64
	body []byte
}

func readFrames(r io.Reader) *frames { return &frames{r: bufio.NewReaderSize(r, 32<<10)} }

// read gives the next frame, whose body is valid until the one after. io.EOF
// when the stream ends between two frames.
func (f *frames) read(allowed ...frameType) (frameType, []byte, error) {
	f.at = f.next
	var head [frameHead]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, nil, fmt.Errorf("%w: frame at byte %d of the stream is cut off", err, f.at)
		}
		return 0, nil, err
	}
	t := frameType(head[3])
	n := int(head[0]) | int(head[1])<<8 | int(head[2])<<16
	if ok := func() bool {
		for _, a := range allowed {
			if a == t {
				return limits[t][0] <= n && n <= limits[t][1]
			}
		}
		return false
	}(); !ok {
		return 0, nil, f.wrong(t, "it cannot be here, with a body of %d bytes", n)
	}
	if cap(f.body) < n {
		f.body = make([]byte, n)
	}
	f.body = f.body[:n]
	if _, err := io.ReadFull(f.r, f.body); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, fmt.Errorf("%w: frame at byte %d of the stream is cut off", err, f.at)
	}
	sum := crc32.Update(crc32.Checksum(head[:4], castagnoli), castagnoli, f.body)
	if got := binary.LittleEndian.Uint32(head[4:]); got != sum {
		return 0, nil, f.wrong(t, "checksum is %08x, the bytes have %08x", got, sum)
	}
	f.next += int64(frameHead + n)
	return t, f.body, nil
}

func (f *frames) wrong(t frameType, format string, args ...any) error {
	return &WireError{Offset: f.at, Type: uint8(t), Detail: fmt.Sprintf(format, args...)}
}

const (
	// joinWrites is how many bytes of waiting frames go out in one write.
	joinWrites = 64 << 10
	// gatherFor is how long frames wait for others behind them, while more are to come anyhow: on a fast way each write wakes somebody at
	// every step of it, and that would take a compare a tenth of its processor time.
	gatherFor = time.Millisecond
)

// writeFrames writes frames, those that come together in one go, until done or an error. more tells whether others are to come soon.
func writeFrames(w io.Writer, queue <-chan []byte, done <-chan struct{}, more func() bool) error {
	var buf []byte
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		select {
		case p := <-queue:
			buf = append(buf[:0], p...)
		case <-done:
			return nil
		}
		var late <-chan time.Time
		if more() {
			wait.Reset(gatherFor)
			late = wait.C
		}
		for open := true; open && len(buf) < joinWrites; {
			select {
			case p := <-queue:
				buf = append(buf, p...)
				continue
			default:
			}
			if open = late != nil; !open {
				break
			}
			select {
			case p := <-queue:
				buf = append(buf, p...)
			case <-late:
				open = false
			case <-done:
				return nil
			}
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
}

// cursor reads a body; bad sticks.
type cursor struct {
	p   []byte
	bad bool
}

func (c *cursor) varint() uint64 {
	v, n := binary.Uvarint(c.p)
	if n <= 0 || n > 1 && c.p[n-1] == 0 { // cut off, too long, or not the shortest form
		c.bad, c.p = true, nil
		return 0
	}
	c.p = c.p[n:]
	return v
}

func (c *cursor) bytes(n int) []byte {
	if n > len(c.p) {
		c.bad, c.p = true, nil
		return nil
	}
	p := c.p[:n:n]
	c.p = c.p[n:]
	return p
}

// blocksIn is how many blocks [0, n) has.
func blocksIn(n int64) int64 { return (n + Block - 1) / Block }

// appendPlace appends where r is. It begins at a block.
func appendPlace(p []byte, id uint64, r block.Range) []byte {
	p = binary.AppendUvarint(p, id)
	p = binary.AppendUvarint(p, uint64(r.Off/Block))
	return binary.AppendUvarint(p, uint64(blocksIn(r.Len)))
}

// place reads what appendPlace wrote, of a volume of size bytes.
func (c *cursor) place(size int64) (id uint64, r block.Range) {
	id = c.varint()
	first, n, all := c.varint(), c.varint(), uint64(blocksIn(size))
	if c.bad || id == 0 || n == 0 || first >= all || n > all-first {
		c.bad = true
		return 0, block.Range{}
	}
	r = block.Range{Off: int64(first) * Block, Len: int64(n) * Block}
	return id, r.Intersect(block.Range{Len: size})
}

// eachPiece visits the pieces of a request for r.
func eachPiece(r block.Range, visit func(i int, piece block.Range) error) error {
	i := 0
	return split(r, digest.Chunk, func(p block.Range) error {
		i++
		return visit(i-1, p)
	})
}

// pieces is how many pieces a request for r has.
func pieces(r block.Range) int {
	return int(parts(r, digest.Chunk))
}
