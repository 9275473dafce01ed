package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/crashfs"
)

const testDir = "/group/journal"

var testGroup = GroupID{0x6f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

// small makes segments short, so that tests see many of them.
var small = Options{SegmentBytes: 32 << 10, SegmentEntries: 64, MaxPending: 500, MaxOpenFiles: 4, Now: stepClock()}

// stepClock is a clock that moves on by a millisecond with each look at it.
func stepClock() func() time.Time {
	c := make(chan int64, 1)
	c <- time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()
	return func() time.Time {
		n := <-c
		c <- n + int64(time.Millisecond)
		return time.Unix(0, n)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func memFS(t testing.TB) *crashfs.FS {
	fs := crashfs.New()
	must(t, fs.MkdirAll(testDir, 0o700))
	return fs
}

func create(t testing.TB, fs vfs.FS, opt Options) *Log {
	t.Helper()
	l, err := Create(fs, testDir, testGroup, opt)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func open(t testing.TB, fs vfs.FS, opt Options) *Log {
	t.Helper()
	l, err := Open(fs, testDir, opt)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// entry encodes one committed entry.
func entry(h Header, payload []byte) []byte {
	h.PayloadLen = uint32(len(payload))
	p := make([]byte, h.Size())
	for i := range p {
		p[i] = 0xee // what a ring's memory held before
	}
	h.Encode(p)
	copy(p[EntryHeaderSize:], payload)
	CommitEntry(p)
	return p
}

// visited is one entry as Scan shows it.
type visited struct {
	Header
	payload string
}

func contents(t testing.TB, l *Log) []visited {
	t.Helper()
	var all []visited
	must(t, l.Scan(0, func(h Header, payload func() ([]byte, error)) error {
		p, err := payload()
		all = append(all, visited{h, string(p)})
		return err
	}))
	return all
}

// workload appends random batches as a group's life brings them, and knows
// what must be in the log.
type workload struct {
	r     *rand.Rand
	l     *Log
	epoch Epoch
	time  int64
}

func newWorkload(l *Log, seed uint64) *workload {
	return &workload{r: rand.New(rand.NewPCG(seed, 7)), l: l, epoch: l.Timeline().Epoch, time: small.Now().UnixNano()}
}

// start adds two volumes and attaches them.
func (w *workload) start() error {
	if _, ok := w.l.Timelined().Volume(1); !ok {
		if err := w.l.AppendControl(w.epoch, VolumeAdded{Volume: 1, Name: "a", Size: 1 << 20}, VolumeAdded{Volume: 2, Name: "b", Size: 1 << 20}); err != nil {
			return err
		}
	}
	return w.attach()
}

func (w *workload) attach() error {
	err := w.l.AppendControl(w.epoch+1, Attach{Reason: "test"}, SyncBegin{Volume: 1}, SyncBegin{Volume: 2})
	if err == nil {
		w.epoch++
	}
	return err
}

// writes makes the regions of a batch of n writes.
func (w *workload) writes(n int) Batch {
	b := Batch{Kind: KindWrites, Epoch: w.epoch, First: w.l.Appended() + 1}
	var region []byte
	for i := range n {
		w.time = max(w.time, small.Now().UnixNano())
		h := Header{Op: OpWrite, Seq: b.First + Seq(i), Volume: VolumeID(1 + w.r.IntN(2)), Off: int64(w.r.IntN(2000)) * 512, Len: 512, Time: w.time}
		var p []byte
		switch w.r.IntN(6) {
		case 0:
			h.Op, h.Len = Op(2+w.r.IntN(2)), 4096
		case 1:
			h.Len = 3 // not a multiple of 8
			fallthrough
		default:
			p = make([]byte, h.Len)
			for i := range p {
				p[i] = byte(w.r.Uint32())
			}
		}
		region = append(region, entry(h, p)...)
		if w.r.IntN(4) == 0 {
			b.Regions, region = append(b.Regions, region), nil
		}
	}
	b.Regions = append(b.Regions, region)
	return b
}

// step appends one batch.
func (w *workload) step() error {
	switch k := w.r.IntN(10); {
	case k < 6:
		return w.l.Append(w.writes(1 + w.r.IntN(12)))
	case k == 6:
		err := w.l.AppendSync(w.epoch, 1, int64(w.r.IntN(100))*4096, 4096, bytes.Repeat([]byte{byte(w.r.Uint32())}, 4096))
		if errors.Is(err, ErrWouldRewrite) {
			return w.attach()
		}
		return err
	case k == 7:
		return w.l.AppendControl(w.epoch, SyncEnd{Volume: 1}, SyncEnd{Volume: 2})
	case k == 8:
		at := w.l.Appended()
		return w.l.AppendControl(w.epoch, Fence{Seq: at, Wall: w.time, Mono: int64(at)}, Checkpoint{Name: fmt.Sprint("c", at%5), Seq: at})
	default:
		return w.attach()
	}
}

// Timelined is Timeline with methods on a pointer.
func (l *Log) Timelined() *Timeline {
	t := l.Timeline()
	return &t
}

func TestAppendReopenIsEqual(t *testing.T) {
	fs := memFS(t)
	l := create(t, fs, small)
	w := newWorkload(l, 1)
	must(t, w.start())
	for i := range 600 {
		must(t, w.step())
		if i%100 != 99 {
			continue
		}
		before, tl, bytes := contents(t, l), l.Timeline(), l.Bytes()
		must(t, l.Close())
		must(t, l.Close())
		l = open(t, fs, small)
		if rec := l.Recovered(); rec.Cut {
			t.Fatalf("a clean journal was cut: %+v", rec)
		}
		if got := contents(t, l); !equal(got, before) {
			t.Fatalf("after reopening %d entries, %d before", len(got), len(before))
		}
		if got := l.Timeline(); fmt.Sprint(got) != fmt.Sprint(tl) {
			t.Fatalf("timeline after reopening\n%+v\nbefore\n%+v", got, tl)
		}
		if l.Bytes() != bytes || l.Durable() != l.Appended() {
			t.Fatalf("bytes %d, before %d; durable %d of %d", l.Bytes(), bytes, l.Durable(), l.Appended())
		}
		w.l = l
	}
	if l.Appended() < 1000 {
		t.Fatalf("only %d seqs", l.Appended())
	}
}

func equal(a, b []visited) bool {
	if len(a) != len(b) {
		return false
	}
	return prefix(a, b)
}

// prefix tells whether a is a prefix of b.
func prefix(a, b []visited) bool {
	if len(a) > len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestScanShowsWhatWasAppended(t *testing.T) {
	l := create(t, memFS(t), small)
	w := newWorkload(l, 2)
	must(t, w.start())
	var want []visited
	for range 50 {
		b := w.writes(5)
		for _, r := range b.Regions {
			for len(r) > 0 {
				h, err := DecodeHeader(r)
				must(t, err)
				want = append(want, visited{h, string(r[EntryHeaderSize : EntryHeaderSize+int(h.PayloadLen)])})
				r = r[h.Size():]
			}
		}
		must(t, l.Append(b))
	}
	i := 0
	must(t, l.Scan(2, func(h Header, payload func() ([]byte, error)) error {
		p, err := payload()
		must(t, err)
		if h.CRC == 0 && len(p) > 0 {
			t.Errorf("seq %d has no checksum", h.Seq)
		}
		h.CRC = want[i].CRC
		if h != want[i].Header || string(p) != want[i].payload {
			t.Fatalf("entry %d is %+v, want %+v", i, h, want[i].Header)
		}
		i++
		return nil
	}))
	if i != len(want) {
		t.Fatalf("%d entries, want %d", i, len(want))
	}
}

func TestAppendRefuses(t *testing.T) {
	l := create(t, memFS(t), small)
	w := newWorkload(l, 3)
	must(t, w.start())
	must(t, l.Append(w.writes(3)))
	good := contents(t, l)
	change := func(f func(b *Batch)) Batch {
		b := w.writes(2)
		b.Regions = [][]byte{bytes.Join(b.Regions, nil)}
		f(&b)
		return b
	}
	cases := map[string]struct {
		b    Batch
		want error
	}{
		"gap":           {change(func(b *Batch) { b.First++ }), ErrGap},
		"again":         {change(func(b *Batch) { b.First-- }), ErrGap},
		"entry's seq":   {change(func(b *Batch) { b.Regions[0][offSeq] ^= 0x40 }), ErrGap},
		"gap inside":    {change(func(b *Batch) { b.Regions[0][entryLen(b.Regions[0])+offSeq]++ }), ErrGap},
		"old epoch":     {change(func(b *Batch) { b.Epoch-- }), ErrFenced},
		"new epoch":     {change(func(b *Batch) { b.Epoch++ }), ErrFenced},
		"uncommitted":   {change(func(b *Batch) { b.Regions[0][0] = 0 }), ErrInvalid},
		"cut off":       {change(func(b *Batch) { b.Regions[0] = b.Regions[0][:50] }), ErrInvalid},
		"half a header": {change(func(b *Batch) { b.Regions = append(b.Regions, make([]byte, 8)) }), ErrInvalid},
		"empty":         {change(func(b *Batch) { b.Regions = nil }), ErrInvalid},
		"control op":    {change(func(b *Batch) { b.Regions = [][]byte{entry(Header{Op: OpDetach, Seq: b.First}, []byte("{}"))} }), ErrInvalid},
		"unknown kind":  {change(func(b *Batch) { b.Kind = 9 }), ErrInvalid},
		"long":          {change(func(b *Batch) { binary.LittleEndian.PutUint32(b.Regions[0][offPayloadLen:], 1<<31) }), ErrInvalid},
	}
	for name, c := range cases {
		if err := l.Append(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	for name, recs := range map[string][]Control{
		"fence above the end": {Fence{Seq: 99}},
		"unknown volume":      {SyncEnd{Volume: 7}},
		"volume twice":        {VolumeAdded{Volume: 1}},
		"no name":             {Checkpoint{}},
		"nil":                 {nil},
		"none":                {},
	} {
		if err := l.AppendControl(w.epoch, recs...); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := l.AppendControl(w.epoch, Attach{}); !errors.Is(err, ErrFenced) {
		t.Errorf("attach in the same epoch: %v", err)
	}
	if err := l.AppendControl(w.epoch+1, Attach{Seq: 2}); !errors.Is(err, ErrGap) {
		t.Errorf("attach at an old seq: %v", err)
	}
	if !equal(contents(t, l), good) {
		t.Error("a refused batch left something behind")
	}
	must(t, l.Append(w.writes(1)))
}

// entryLen is the length of the first entry in p.
func entryLen(p []byte) int {
	return EntrySize(int(binary.LittleEndian.Uint32(p[offPayloadLen:])))
}

func TestTimesDoNotGoBack(t *testing.T) {
	fs := memFS(t)
	l := create(t, fs, small)
	w := newWorkload(l, 4)
	must(t, w.start())
	must(t, l.Append(w.writes(4)))
	for range 200 { // over several segments
		b := Batch{Kind: KindWrites, Epoch: w.epoch, First: l.Appended() + 1}
		b.Regions = [][]byte{entry(Header{Op: OpZero, Seq: b.First, Volume: 1, Len: 512, Time: 5}, nil)}
		must(t, l.Append(b))
	}
	wholeCheck(t, fs)
	all := contents(t, l)
	for i := 1; i < len(all); i++ {
		if all[i].Time < all[i-1].Time {
			t.Fatalf("entry %d is older than the one before", i)
		}
	}
}

func TestSeqAt(t *testing.T) {
	l := create(t, memFS(t), small)
	w := newWorkload(l, 5)
	must(t, w.start())
	for range 300 {
		must(t, w.step())
	}
	all := contents(t, l)
	for i := 0; i < len(all); i += 3 {
		for _, d := range []int64{-1, 0, 1} {
			at, want := all[i].Time+d, Seq(0)
			for _, v := range all {
				if v.Time <= at {
					want = v.Seq
				}
			}
			if got, err := l.SeqAt(time.Unix(0, at)); err != nil || got != want {
				t.Fatalf("SeqAt(entry %d %+d) = %d, %v; want %d", i, d, got, err, want)
			}
		}
	}
	if _, err := l.SeqAt(time.Unix(0, all[0].Time-int64(time.Hour))); !errors.Is(err, ErrNoSeq) {
		t.Errorf("before the journal: %v", err)
	}
}

func TestCreateAndOpenRefuse(t *testing.T) {
	fs := memFS(t)
	if _, err := Open(fs, testDir, small); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("open without a journal: %v", err)
	}
	l := create(t, fs, small)
	must(t, l.Close())
	if _, err := Create(fs, testDir, testGroup, small); !errors.Is(err, os.ErrExist) {
		t.Errorf("create twice: %v", err)
	}
	if err := l.AppendControl(0, Detach{}); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	if _, err := Open(fs, testDir, Options{SegmentEntries: -1}); err == nil {
		t.Error("bad options were taken")
	}
}

func TestOpenRemovesUnfinishedFiles(t *testing.T) {
	fs := memFS(t)
	l := create(t, fs, small)
	must(t, l.Close())
	temp := l.path(1) + vfs.TempSuffix
	f, err := fs.OpenFile(temp, os.O_CREATE|os.O_RDWR, 0o600)
	must(t, err)
	must(t, f.Close())
	open(t, fs, small)
	if _, err := fs.Stat(temp); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an unfinished file stays: %v", err)
	}
}
