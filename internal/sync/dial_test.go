package sync

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	stdsync "sync"
	"testing"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/digest"
)

// What differs is what differs here, too, wherever the ranges begin and end.
func TestRemoteDiffersAsLocal(t *testing.T) {
	for seed := range uint64(3) {
		src := newMemory(testSize).fill(60+seed, 0.4)
		replica, _ := differ(src, 70+seed, 500)
		h := newHashes(t, replica)
		h.limit = int(seed) // of the answers about holes, too
		far, near := newDistant(t, h), NewCurrent(device{replica})
		if far.Size() != testSize {
			t.Fatalf("size is %d", far.Size())
		}
		r := rand.New(rand.NewPCG(seed, 4))
		for range 25 {
			off := r.Int64N(testSize) / Block * Block
			n := min(Block*(1+r.Int64N(1+[]int64{3, 40, 3000}[r.IntN(3)])), testSize-off)
			var data []byte
			if r.IntN(3) > 0 {
				data = src.data[off : off+n]
			}
			got, err := far.Differing(t.Context(), off, n, data, nil)
			if err != nil {
				t.Fatal(err)
			}
			want, err := near.Differing(t.Context(), off, n, data, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !equalRanges(got, want) {
				t.Fatalf("%d bytes at %d, zeroes %v: %v differ, want %v", n, off, data == nil, got, want)
			}
		}
	}
}

func equalRanges(a, b []block.Range) bool {
	var x, y block.RangeSet
	for _, r := range a {
		x.Add(r)
	}
	for _, r := range b {
		y.Add(r)
	}
	if len(x.Ranges()) != len(y.Ranges()) {
		return false
	}
	for i, r := range x.Ranges() {
		if y.Ranges()[i] != r {
			return false
		}
	}
	return true
}

// Extents need not end where blocks do.
func TestRemoteZeroesWithOddExtents(t *testing.T) {
	m := newMemory(testSize)
	m.data[3*Block+512], m.data[testSize-1] = 1, 1
	h := newHashes(t, m)
	odd := oddExtents{h, []block.Extent{
		{Off: 0, Len: 3*Block + 100, Hole: true}, {Off: 3*Block + 100, Len: 1000},
		{Off: 3*Block + 1100, Len: testSize - 1 - 3*Block - 1100, Hole: true}, {Off: testSize - 1, Len: 1},
	}}
	c := newDistant(t, odd)
	got, err := c.Differing(t.Context(), 0, testSize, nil, nil)
	tail := int64(testSize) / Block * Block
	want := []block.Range{{Off: 3 * Block, Len: Block}, {Off: tail, Len: testSize - tail}}
	if err != nil || !equalRanges(got, want) {
		t.Fatalf("%v, %v; want %v", got, err, want)
	}
	if n := h.hashed.Load(); n > 8*Block {
		t.Errorf("%d bytes were hashed for two blocks", n)
	}
}

type oddExtents struct {
	*hashes
	list []block.Extent
}

func (o oddExtents) Extents(off, n int64) ([]block.Extent, error) {
	var out []block.Extent
	for _, e := range o.list {
		if x := e.Range().Intersect(block.Range{Off: off, Len: n}); !x.Empty() {
			out = append(out, block.Extent{Off: x.Off, Len: x.Len, Hole: e.Hole})
		}
	}
	return out, nil
}

// The guest writes all the time while a replica elsewhere is compared.
func TestRemoteCompareWhileTheTapWrites(t *testing.T) {
	for seed := range uint64(2) {
		src := newMemory(4<<20).fill(80+seed, 0.5)
		replica, _ := differ(src, 90+seed, 250)
		s := newStream(t, replica)
		write := s.guest(src, seed)
		src.beforeRead, src.afterRead = write, write
		replica.beforeRead, replica.afterRead = write, write
		c := newDistant(t, newHashes(t, replica))
		if err := Compare(t.Context(), source{src}, c.Current, s, Options{RequestSize: 64 << 10}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(replica.data, src.data) {
			t.Fatalf("seed %d: replica differs from the source", seed)
		}
	}
}

// A replica that cannot be read is said so, and the stream goes on.
func TestRemoteRefusal(t *testing.T) {
	m := newMemory(testSize).fill(1, 1)
	h := newHashes(t, m)
	c := newDistant(t, h)
	bad := errors.New("the disk of the hub is broken")
	h.fail.Store(&bad)
	for _, data := range [][]byte{nil, make([]byte, digest.Chunk)} {
		_, err := c.Differing(t.Context(), 0, digest.Chunk, data, nil)
		var e *RefusalError
		if !errors.As(err, &e) || e.Reason != bad.Error() {
			t.Fatalf("got %v", err)
		}
	}
	var e *Error
	err := Compare(t.Context(), source{m}, c.Current, newStream(t, m), Options{Volume: "vm/d"})
	if !errors.As(err, &e) || e.Volume != "vm/d" || e.Op != "compare with replica" {
		t.Fatalf("got %v", err)
	}
	h.fail.Store(nil)
	if got, err := c.Differing(t.Context(), 0, testSize, m.data, nil); err != nil || len(got) != 0 {
		t.Fatalf("afterwards: %v, %v", got, err)
	}
}

func TestRemoteBadArguments(t *testing.T) {
	c := newDistant(t, newHashes(t, newMemory(testSize)))
	for _, r := range []block.Range{{Off: -Block, Len: Block}, {Off: 1, Len: Block}, {Off: 0, Len: 1}, {Off: 0, Len: testSize + Block}, {Off: 1 << 62, Len: 1 << 62}} {
		if _, err := c.Differing(t.Context(), r.Off, r.Len, nil, nil); err == nil {
			t.Errorf("%v was asked", r)
		}
	}
	if _, err := c.Differing(t.Context(), 0, Block, make([]byte, 7), nil); err == nil {
		t.Error("data of another length was compared")
	}
}

// Each side tells the other one that it is of another release.
func TestRemoteVersions(t *testing.T) {
	a, b := socketPair(t)
	served := make(chan error, 1)
	go func() { served <- ServeCurrent(t.Context(), b, newHashes(t, newMemory(testSize))) }()
	hello := binary.LittleEndian.AppendUint32(append(newFrame(typeHello, helloSize), wireMagic...), 9)
	if _, err := a.Write(sealFrame(append(hello, "and more"...))); err != nil {
		t.Fatal(err)
	}
	typ, body, err := readFrames(a).read(typeRefusal)
	if err != nil || typ != typeRefusal {
		t.Fatalf("type %d, %v", typ, err)
	}
	var e *RefusalError
	if _, err := refusal(body); !errors.As(err, &e) || !strings.Contains(e.Reason, "it is 9, this rephub knows 2") {
		t.Errorf("refused with %v", err)
	}
	if err := <-served; !errors.Is(err, ErrVersion) {
		t.Errorf("the server ended with %v", err)
	}
	a, b = socketPair(t)
	if _, err := b.Write(welcomeFrame(9, testSize)); err != nil {
		t.Fatal(err)
	}
	if _, err := DialCurrent(t.Context(), a); !errors.Is(err, ErrVersion) {
		t.Errorf("the client ended with %v", err)
	}
}

// Both sides end in order: the server with nil, later calls with ErrClosed.
func TestRemoteClose(t *testing.T) {
	c := newDistant(t, newHashes(t, newMemory(testSize)))
	if _, err := c.Differing(t.Context(), 0, testSize, nil, nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-c.served; err != nil {
		t.Errorf("server: %v", err)
	}
	if _, err := c.Differing(t.Context(), 0, testSize, nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// welcomeFrame is what a server says first.
func welcomeFrame(version uint32, size int64) []byte {
	p := binary.LittleEndian.AppendUint32(append(newFrame(typeWelcome, welcomeLen), wireMagic...), version)
	p = binary.LittleEndian.AppendUint64(p, uint64(size))
	return sealFrame(append(p, make([]byte, len(digest.Secret{}))...))
}

// Many requests are under way at a time, and answers may come in any order.
func TestRemoteManyInFlight(t *testing.T) {
	const calls = 40
	a, b := socketPair(t)
	served := make(chan error, 1)
	go func() { // a server that answers the last one first
		served <- func() error {
			r := readFrames(b)
			if _, _, err := r.read(typeHello); err != nil {
				return err
			}
			if _, err := b.Write(welcomeFrame(wireVersion, 1<<40)); err != nil {
				return err
			}
			var answers [][]byte
			for range calls {
				_, body, err := r.read(typeCompare)
				if err != nil {
					return err
				}
				c := cursor{p: body}
				id, q := c.place(1 << 40)
				p := answerTo(&request{id: id}, q.Len, 1)
				answers = append(answers, sealFrame(append(p, byte(q.Off/Block%2)))) // odd blocks differ
			}
			for i := range answers {
				if _, err := b.Write(answers[calls-1-i]); err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	c, err := DialCurrent(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var wg stdsync.WaitGroup
	for i := range int64(calls) {
		wg.Go(func() {
			got, err := c.Differing(t.Context(), i*Block, Block, make([]byte, Block), nil)
			if err != nil || len(got) != int(i%2) || len(got) == 1 && got[0].Off != i*Block {
				t.Errorf("block %d: %v, %v", i, got, err)
			}
		})
	}
	wg.Wait()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// A peer that hangs costs the context's time only, or that until Close.
func TestRemoteHungPeer(t *testing.T) {
	gone := errors.New("given up")
	cancelled := func() context.Context {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(gone)
		return ctx
	}
	a, _ := net.Pipe() // takes not a single byte
	if _, err := DialCurrent(cancelled(), a); !errors.Is(err, gone) {
		t.Fatalf("dial: %v", err)
	}
	a, b := socketPair(t)
	if _, err := b.Write(welcomeFrame(wireVersion, testSize)); err != nil {
		t.Fatal(err)
	}
	c, err := DialCurrent(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Differing(cancelled(), 0, testSize, nil, nil); !errors.Is(err, gone) {
		t.Errorf("a call: %v", err)
	}
	ended := make(chan error, 100)
	for range cap(ended) { // more than the queue holds
		go func() {
			_, err := c.Differing(t.Context(), 0, testSize, nil, nil)
			ended <- err
		}()
	}
	r := readFrames(b)
	if _, _, err := r.read(typeHello); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.read(typeZeroes); err != nil { // some are under way
		t.Fatal(err)
	}
	c.Close()
	for range cap(ended) {
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Fatalf("a call during Close: %v", err)
		}
	}
}

// A client that asks and never reads costs the server's context only.
func TestServeHungClient(t *testing.T) {
	a, b := net.Pipe()
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("given up")
	served := make(chan error, 1)
	h := newHashes(t, newMemory(testSize).fill(1, 1))
	go func() { served <- ServeCurrent(ctx, b, h) }()
	hello := binary.LittleEndian.AppendUint32(append(newFrame(typeHello, helloSize), wireMagic...), wireVersion)
	if _, err := a.Write(sealFrame(hello)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(a, make([]byte, frameHead+welcomeLen)); err != nil {
		t.Fatal(err)
	}
	full := make(chan struct{})
	go func() {
		defer close(full)
		for id := uint64(1); ; id++ { // until the server takes no more, and is ended
			p := appendPlace(newFrame(typeZeroes, 32), id, block.Range{Len: testSize})
			if _, err := a.Write(sealFrame(p)); err != nil {
				return
			}
			if id == serveWorkers { // all of them have something to do
				cancel(gone)
			}
		}
	}()
	if err := <-served; !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	<-full
}
