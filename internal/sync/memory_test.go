package sync

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	stdsync "sync"
	"sync/atomic"
	"testing"

	"github.com/rephub/rephub/block"
)

// memory is a volume in memory: a source, a base and a replica's device.
type memory struct {
	mu    stdsync.Mutex
	data  []byte
	holes bool // tells its zero blocks as holes

	reads, zeroed, synced atomic.Int64
	written               atomic.Int64 // bytes
	fail                  func(op string, off, n int64) error
	beforeRead, afterRead func(off, n int64)
	resized               atomic.Int64
}

func newMemory(size int64) *memory { return &memory{data: make([]byte, size), holes: true} }

// fill writes random data into some blocks, by a seed.
func (m *memory) fill(seed uint64, part float64) *memory {
	r := rand.New(rand.NewPCG(seed, 1))
	for off := 0; off < len(m.data); off += Block {
		if r.Float64() < part {
			p := m.data[off:min(off+Block, len(m.data))]
			for i := 0; i < len(p); i += 64 {
				p[i] = byte(1 + r.Uint32N(255))
			}
		}
	}
	return m
}

func (m *memory) check(op string, off, n int64) error {
	if m.fail != nil {
		return m.fail(op, off, n)
	}
	return nil
}

func (m *memory) Size() int64 {
	if n := m.resized.Load(); n != 0 {
		return n
	}
	return int64(len(m.data))
}

func (m *memory) read(p []byte, off int64) error {
	if m.beforeRead != nil {
		m.beforeRead(off, int64(len(p)))
	}
	if err := m.check("read", off, int64(len(p))); err != nil {
		return err
	}
	m.reads.Add(1)
	if m.afterRead != nil {
		defer m.afterRead(off, int64(len(p))) // with the lock free again
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if off+int64(len(p)) > int64(len(m.data)) {
		return errors.New("past the end")
	}
	copy(p, m.data[off:])
	return nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if err := m.check("write", off, int64(len(p))); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.written.Add(int64(len(p)))
	return copy(m.data[off:off+int64(len(p))], p), nil
}

func (m *memory) Zero(off, n int64) error {
	if err := m.check("zero", off, n); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.zeroed.Add(n)
	clear(m.data[off : off+n])
	return nil
}

func (m *memory) Sync() error {
	m.synced.Add(1)
	return m.check("sync", 0, 0)
}

// Extents tells runs of zero blocks as holes.
func (m *memory) Extents(off, n int64) ([]block.Extent, error) { return m.extents(off, n, 1<<30) }

// extents stops after limit of them.
func (m *memory) extents(off, n int64, limit int) ([]block.Extent, error) {
	if err := m.check("status", off, n); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []block.Extent
	for end := off + n; off < end; {
		stop := min(off-off%Block+Block, end)
		hole := m.holes && isZero(m.data[off:stop])
		if k := len(list) - 1; k >= 0 && list[k].Hole == hole {
			list[k].Len += stop - off
		} else if len(list) == limit {
			break
		} else {
			list = append(list, block.Extent{Off: off, Len: stop - off, Hole: hole})
		}
		off = stop
	}
	return list, nil
}

// source is the memory as a Source; one status answers at most a few extents.
type source struct{ *memory }

func (s source) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := s.read(p, off); err != nil {
		return err
	}
	return context.Cause(ctx)
}

func (s source) Allocated(ctx context.Context, off, n int64) ([]block.Extent, error) {
	return s.extents(off, n, 5)
}

// device is the memory as a replica's device, with its holes.
type device struct{ *memory }

func (d device) ReadAt(p []byte, off int64) (int, error) { return len(p), d.read(p, off) }

// stream applies commits to a replica, and drops what the tap wrote since Begin,
// as the real one does.
type stream struct {
	t       *testing.T
	replica *memory

	taps    stdsync.Mutex
	mu      stdsync.Mutex
	next    Ticket
	open    map[Ticket]*ticket
	commits []block.Range
	zeroes  int64
	fail    error

	far *rand.Rand // if set, what is in the stream reaches the replica later
	way []func()   // to the replica, in order
}

type ticket struct {
	r       block.Range
	touched block.RangeSet
}

func newStream(t *testing.T, replica *memory) *stream {
	s := &stream{t: t, replica: replica, open: make(map[Ticket]*ticket)}
	t.Cleanup(func() {
		if len(s.open) != 0 {
			t.Errorf("%d tickets were never ended", len(s.open))
		}
	})
	return s
}

func (s *stream) Begin(r block.Range) Ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	s.open[s.next] = &ticket{r: r}
	return s.next
}

func (s *stream) End(t Ticket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[t] == nil {
		s.t.Errorf("ticket %d ended twice", t)
	}
	delete(s.open, t)
}

func (s *stream) Commit(_ context.Context, t Ticket, r block.Range, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.open[t]
	if k == nil || !k.r.Contains(r) || r.Empty() || data != nil && int64(len(data)) != r.Len {
		s.t.Errorf("commit of %v under ticket %d", r, t)
		return nil
	}
	if s.fail != nil {
		return s.fail
	}
	s.commits = append(s.commits, r)
	for _, x := range k.touched.Missing(r, nil) {
		if data == nil {
			s.zeroes += x.Len
			s.send(func() { s.replica.Zero(x.Off, x.Len) })
		} else {
			p := bytes.Clone(data[x.Off-r.Off : x.End()-r.Off])
			s.send(func() { s.replica.WriteAt(p, x.Off) })
		}
	}
	return nil
}

// send appends to the stream.
func (s *stream) send(f func()) {
	s.way = append(s.way, f)
	most := 0
	if s.far != nil {
		most = s.far.IntN(30)
	}
	s.arrive(most)
}

// arrive leaves n at most on their way.
func (s *stream) arrive(n int) {
	for ; len(s.way) > n; s.way = s.way[1:] {
		s.way[0]()
	}
}

// tap is a write of the guest: source first, then the replica, in one order with
// the stream.
func (s *stream) tap(src *memory, off int64, p []byte) {
	s.taps.Lock() // QEMU serialises overlapping writes
	defer s.taps.Unlock()
	src.WriteAt(p, off)
	s.mu.Lock()
	defer s.mu.Unlock()
	p = bytes.Clone(p)
	s.send(func() { s.replica.WriteAt(p, off) })
	for _, k := range s.open {
		k.touched.Add(block.Range{Off: off, Len: int64(len(p))}.Intersect(k.r))
	}
}

// guest writes a little at each call: near what is read, or at one of a few places;
// zeroes, what is likely there already, or something new.
func (s *stream) guest(src *memory, seed uint64) func(off, n int64) {
	var mu stdsync.Mutex
	r := rand.New(rand.NewPCG(seed, 3))
	return func(off, n int64) {
		mu.Lock()
		at := off + r.Int64N(n)
		if r.IntN(3) == 0 {
			at = r.Int64N(int64(len(src.data))) / (1 << 20) << 20
		}
		p := make([]byte, min(1+r.Int64N(9000), int64(len(src.data))-at))
		if values := []uint32{1, 2, 256}[r.IntN(3)]; values > 1 {
			for i := range p {
				p[i] = byte(r.Uint32N(values))
			}
		}
		mu.Unlock()
		s.tap(src, at, p)
	}
}
