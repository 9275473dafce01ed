package sync

import (
	"context"
	"io"
	"net"
	stdsync "sync"
	"sync/atomic"
	"testing"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/digest"
)

// hashes is a memory's volume as a Hasher.
type hashes struct {
	*memory
	h      *digest.Hasher
	secret digest.Secret
	fail   atomic.Pointer[error] // of everything
	hashed atomic.Int64
	asked  atomic.Int64 // times, for hashes of pieces
	limit  int          // of extents per answer; 0: none
}

func newHashes(t testing.TB, m *memory) *hashes {
	t.Helper()
	s := &hashes{memory: m, secret: digest.Secret{5}}
	var err error
	if s.h, err = digest.New(s.secret); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *hashes) Secret() digest.Secret { return s.secret }

func (s *hashes) Extents(off, n int64) ([]block.Extent, error) {
	if err := s.fail.Load(); err != nil {
		return nil, *err
	}
	if s.limit > 0 {
		return s.extents(off, n, s.limit)
	}
	return s.memory.Extents(off, n)
}

func (s *hashes) Blocks(_ context.Context, r block.Range, dst []digest.Sum) ([]digest.Sum, error) {
	if err := s.fail.Load(); err != nil {
		return dst, *err
	}
	p := make([]byte, r.Len)
	if err := s.read(p, r.Off); err != nil {
		return dst, err
	}
	s.hashed.Add(r.Len)
	return s.h.AppendBlocks(dst, p), nil
}

func (s *hashes) Pieces(ctx context.Context, r block.Range, dst []digest.Sum) ([]digest.Sum, error) {
	s.asked.Add(1)
	err := eachPiece(r, func(_ int, p block.Range) error {
		blocks, err := s.Blocks(ctx, p, nil)
		if err == nil {
			dst = append(dst, s.h.Join(blocks))
		}
		return err
	})
	return dst, err
}

// counted counts what goes through a connection, both ways.
type counted struct {
	net.Conn
	bytes *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.bytes.Add(int64(n))
	return n, err
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.bytes.Add(int64(n))
	return n, err
}

// socketPair is a connection with buffers, unlike net.Pipe.
func socketPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// distant is a Current that a server answers for; wire counts the bytes.
type distant struct {
	Current
	wire   atomic.Int64
	served chan error
}

func newDistant(t testing.TB, h Hasher) *distant {
	t.Helper()
	a, b := socketPair(t)
	return newDistantOver(t, a, b, h)
}

func newDistantOver(t testing.TB, a net.Conn, b io.ReadWriteCloser, h Hasher) *distant {
	t.Helper()
	d := &distant{served: make(chan error, 1)}
	var wg stdsync.WaitGroup
	wg.Go(func() { d.served <- ServeCurrent(context.Background(), b, h) })
	c, err := DialCurrent(t.Context(), counted{a, &d.wire})
	if err != nil {
		t.Fatal(err)
	}
	d.Current = c
	t.Cleanup(func() { c.Close(); wg.Wait() })
	return d
}
