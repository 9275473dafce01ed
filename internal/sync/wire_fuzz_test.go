package sync

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	stdsync "sync"
	"sync/atomic"
	"testing"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/digest"
)

func helloFrame(version uint32) []byte {
	return sealFrame(binary.LittleEndian.AppendUint32(append(newFrame(typeHello, helloSize), wireMagic...), version))
}

// bodyOf is a request's body.
func bodyOf(id uint64, r block.Range, sums ...digest.Sum) []byte {
	p := appendPlace(nil, id, r)
	for _, s := range sums {
		p = append(p, s[:]...)
	}
	return p
}

func frame(t frameType, body []byte) []byte {
	return sealFrame(append(newFrame(t, len(body)), body...))
}

// script is a conn whose other end says something and hangs up.
type script struct {
	io.Reader
	said bytes.Buffer
}

func (s *script) Write(p []byte) (int, error) { return s.said.Write(p) }
func (s *script) Close() error                { return nil }

// Whatever a client sends, the server ends with a reason, and says only what the
// protocol has.
func FuzzServeCurrent(f *testing.F) {
	const size = 5*digest.Chunk + 700
	hello := helloFrame(wireVersion)
	whole := block.Range{Len: size}
	good := append(bytes.Clone(hello), frame(typeCompare, bodyOf(1, block.Range{Len: 2 * digest.Chunk}, digest.Sum{1}, digest.Sum{2}))...)
	f.Add(append(bytes.Clone(good), frame(typeZeroes, bodyOf(2, whole))...))
	f.Add(good[:len(good)-3])
	f.Add(append(bytes.Clone(hello), hello...))
	f.Add(append(bytes.Clone(hello), frame(typeCompare, bodyOf(1, whole))...))
	f.Add(append(bytes.Clone(hello), frame(typeZeroes, []byte{1, 0, 0})...))
	f.Add(append(bytes.Clone(hello), frame(typeZeroes, []byte{1, 90, 90})...))
	f.Add(append(bytes.Clone(hello), frame(typeZeroes, bytes.Repeat([]byte{0xff}, 30))...))
	f.Add(append(bytes.Clone(hello), 0xff, 0xff, 0xff, byte(typeCompare), 1, 2, 3, 4))
	f.Add(helloFrame(2))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		s := &script{Reader: bytes.NewReader(p)}
		err := ServeCurrent(t.Context(), s, newHashes(t, newMemory(size).fill(1, 0.5)))
		var wire *WireError
		if err != nil && !errors.As(err, &wire) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrVersion) {
			t.Fatalf("ended with %v", err)
		}
		r := readFrames(&s.said)
		for {
			if _, _, err := r.read(typeWelcome, typeAnswer, typeRefusal); err != nil {
				if !errors.Is(err, io.EOF) {
					t.Fatalf("the server said what is no frame: %v", err)
				}
				return
			}
		}
	})
}

// Whatever a server sends, a client gives ranges that can be, or an error.
func FuzzDialCurrent(f *testing.F) {
	const size = 5*digest.Chunk + 700
	welcome := welcomeFrame(wireVersion, size)
	n := byte(blocksIn(size))
	f.Add(append(bytes.Clone(welcome), frame(typeAnswer, []byte{1, n, 0})...))
	f.Add(append(bytes.Clone(welcome), frame(typeAnswer, append([]byte{1, n, 1}, make([]byte, digest.Blocks*tagSize)...))...))
	f.Add(append(bytes.Clone(welcome), frame(typeAnswer, []byte{1, n, 0xff})...))
	f.Add(append(bytes.Clone(welcome), frame(typeAnswer, []byte{9, n, 0})...))
	f.Add(append(bytes.Clone(welcome), frame(typeAnswer, []byte{1, n, 3, 1})...))
	f.Add(append(bytes.Clone(welcome), frame(typeRefusal, append([]byte{1}, "no"...))...))
	f.Add(append(bytes.Clone(welcome), frame(typeRefusal, append([]byte{0}, "never"...))...))
	f.Add(frame(typeRefusal, append([]byte{0}, "never"...)))
	f.Add(welcomeFrame(7, size))
	f.Add(welcomeFrame(wireVersion, -1))
	f.Add(welcomeFrame(wireVersion, 1<<62))
	f.Fuzz(func(t *testing.T, p []byte) {
		for _, data := range [][]byte{nil, make([]byte, size)} {
			c, err := DialCurrent(t.Context(), &script{Reader: bytes.NewReader(p)})
			if err != nil {
				return
			}
			got, err := c.Differing(t.Context(), 0, min(size, c.Size()/Block*Block), data, nil)
			if err == nil {
				checkRanges(t, got, size)
			}
			c.Close()
		}
	})
}

func checkRanges(t *testing.T, list []block.Range, size int64) {
	t.Helper()
	at := int64(0)
	for _, r := range list {
		if r.Off < at || r.Empty() || r.End() > size || r.Off%Block != 0 || r.Len%Block != 0 && r.End() != size {
			t.Fatalf("%v differ, of %d bytes", list, size)
		}
		at = r.End()
	}
}

// The bodies, without the checksums that keep a fuzzer out.
func FuzzWireBodies(f *testing.F) {
	const size = 3*digest.Chunk + 700
	r := block.Range{Off: Block, Len: size - Block}
	f.Add(bodyOf(1, r, digest.Sum{}, digest.Sum{}, digest.Sum{}, digest.Sum{}))
	f.Add([]byte{1, 0, 1})
	f.Add(append([]byte{byte(blocksIn(r.Len)), 0b1010}, make([]byte, (digest.Blocks+1)*tagSize)...))
	f.Add([]byte{byte(blocksIn(r.Len)), 3, 2, 1, 1})
	f.Add([]byte{3, 0, 1, 0, 1, 0, 1})
	f.Add(binary.AppendUvarint([]byte{5}, 1<<63))
	f.Add([]byte{0x80, 0x00})
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, typ := range []frameType{typeCompare, typeZeroes} {
			q := request{}
			if q.decode(typ, body, size) {
				if !(block.Range{Len: size}).Contains(q.r) || q.r.Empty() || q.r.Off%Block != 0 || q.id == 0 {
					t.Fatalf("request %d about %v", q.id, q.r)
				}
				if again := bodyOf(q.id, q.r, q.sums...); !bytes.Equal(again, body) {
					t.Fatalf("%x has two forms: %x", body, again)
				}
			}
		}
		blocks := make([]digest.Sum, blocksIn(r.Len))
		if out, ok := readDiffering(body, r, blocks, nil); ok {
			checkRanges(t, out, size)
		}
		if out, done, ok := readRows(body, r, nil); ok {
			checkRanges(t, out, r.Off+done)
			if done <= 0 || done > r.Len {
				t.Fatalf("%d of %d bytes answered", done, r.Len)
			}
		}
		_, _ = refusal(body)
	})
}

// A flipped byte on the way ends the stream; no answer comes of it.
func TestEveryFlippedByteOfTheStreamIsSeen(t *testing.T) {
	m := newMemory(2*digest.Chunk).fill(3, 1)
	other := newMemory(2*digest.Chunk).fill(4, 1)
	h := newHashes(t, m)
	ask := append(helloFrame(wireVersion), frame(typeCompare, bodyOf(1, block.Range{Len: m.Size()}, digest.Sum{1}, digest.Sum{2}))...)
	server := &lingering{script: script{Reader: bytes.NewReader(ask)}, frames: 2, said: make(chan struct{})}
	if err := ServeCurrent(t.Context(), server, h); err != nil {
		t.Fatal(err)
	}
	said := server.script.said.Bytes()
	client := func(p []byte) ([]block.Range, error) {
		c, err := DialCurrent(t.Context(), newReplay(p))
		if err != nil {
			return nil, err
		}
		defer c.Close()
		return c.Differing(t.Context(), 0, m.Size(), other.data, nil)
	}
	if got, err := client(said); err != nil || len(got) != 1 || got[0].Len != m.Size() {
		t.Fatalf("nothing was flipped: %v, %v", got, err)
	}
	for at := range said {
		p := bytes.Clone(said)
		p[at] ^= 0x10
		if got, err := client(p); err == nil {
			t.Fatalf("byte %d was flipped, and believed: %v", at, got)
		}
	}
}

// lingering hangs up when the other end has said a number of frames.
type lingering struct {
	script
	frames int
	said   chan struct{}
}

func (l *lingering) Write(p []byte) (int, error) {
	n, err := l.script.Write(p)
	r := readFrames(bytes.NewReader(l.script.said.Bytes()))
	count := 0
	for {
		if _, _, err := r.read(typeWelcome, typeAnswer, typeRefusal); err != nil {
			break
		}
		count++
	}
	if count == l.frames {
		close(l.said)
	}
	return n, err
}

func (l *lingering) Read(p []byte) (int, error) {
	n, err := l.script.Read(p)
	if err == io.EOF {
		<-l.said
	}
	return n, err
}

// replay says a welcome, and the rest when a request has come.
type replay struct {
	first, rest io.Reader
	writes      atomic.Int64
	asked       chan struct{}
	once        stdsync.Once
}

func newReplay(p []byte) *replay {
	n := frameHead + welcomeLen
	return &replay{first: bytes.NewReader(p[:n]), rest: bytes.NewReader(p[n:]), asked: make(chan struct{})}
}

func (r *replay) Read(p []byte) (int, error) {
	if n, err := r.first.Read(p); err == nil {
		return n, nil
	}
	<-r.asked
	return r.rest.Read(p)
}

func (r *replay) Write(p []byte) (int, error) {
	if r.writes.Add(1) == 2 { // the first one is hello
		r.once.Do(func() { close(r.asked) })
	}
	return len(p), nil
}

func (r *replay) Close() error {
	r.once.Do(func() { close(r.asked) })
	return nil
}
