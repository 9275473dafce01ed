package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/crashfs"
	"github.com/rephub/rephub/journal"
)

const (
	groupDir = "/group"
	volumes  = 2
	volSize  = 160 << 10 // two chunks and a half
)

// op is one entry of the journal, as the model remembers it.
type op struct {
	seq  journal.Seq
	vol  journal.VolumeID
	off  int64
	n    int64
	data []byte // nil: zeroes
}

// world drives a Store and a model of it.
type world struct {
	t       *testing.T
	r       *rand.Rand
	fs      *crashfs.FS
	s       *Store
	clock   time.Time
	initial map[journal.VolumeID][]byte
	ops     []op
	epoch   journal.Epoch
	highest journal.Seq // ever assigned, whatever a crash has lost
	views   []heldView
	hold    bool                       // keep some views open
	crashed atomic.Pointer[crashfs.FS] // set by a crash in the middle of something
	hashes  bool                       // look at them all the time
	known   int                        // hashes that were found kept
}

// heldView is a view that stays open while the world goes on.
type heldView struct {
	v    *View
	want []byte
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) config() Config {
	return Config{StepSeqs: 40, Journal: journal.Options{SegmentBytes: 40 << 10, SegmentEntries: 24, MaxOpenFiles: 4, MaxPending: 500,
		Now: func() time.Time { return w.clock }}}
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, r: rand.New(rand.NewPCG(seed, 3)), fs: crashfs.New(), clock: time.Unix(1e9, 0), initial: map[journal.VolumeID][]byte{}}
	must(t, w.fs.MkdirAll("/", 0o700))
	s, err := Create(w.fs, groupDir, Manifest{ID: journal.GroupID{7}, Name: "g"}, w.config())
	must(t, err)
	w.s = s
	t.Cleanup(func() { w.s.Close() })
	for id := journal.VolumeID(1); id <= volumes; id++ {
		must(t, s.AddVolume(Volume{ID: id, Size: volSize}))
		must(t, s.Log().AppendControl(0, journal.VolumeAdded{Volume: id, Size: volSize}))
		w.initial[id] = make([]byte, volSize)
	}
	w.attach()
	for id := journal.VolumeID(1); id <= volumes; id++ {
		w.writes(2) // the tap is live while the initial sync goes on
		w.initialSync(id)
		w.writes(2)
		must(t, s.Log().AppendControl(w.epoch, journal.SyncEnd{Volume: id}))
	}
	w.fence()
	w.sync()
	return w
}

func (w *world) initialSync(id journal.VolumeID) {
	b, err := w.s.Base(id)
	must(w.t, err)
	data := w.initial[id]
	for i := range data[:volSize/2] {
		data[i] = byte(w.r.Uint32())
	}
	_, err = b.WriteAt(data[:volSize/2], 0)
	must(w.t, err)
	must(w.t, b.Zero(4096, 8192))
	clear(data[4096:12288])
	must(w.t, b.Sync())
	must(w.t, w.s.SetSyncProgress(id, volSize))
}

// attach begins an epoch in which every volume has to be synced.
func (w *world) attach() {
	w.epoch++
	w.highest += 1 + journal.Seq(w.r.IntN(5))
	must(w.t, w.s.Log().AppendControl(w.epoch, journal.Attach{Seq: w.highest}))
}

// resync is an epoch whose sync goes through the journal, writes in between.
func (w *world) resync() {
	w.attach()
	for id := journal.VolumeID(1); id <= volumes; id++ {
		must(w.t, w.s.Log().AppendControl(w.epoch, journal.SyncBegin{Volume: id}))
		for range 1 + w.r.IntN(6) {
			if w.r.IntN(3) == 0 {
				w.writes(1 + w.r.IntN(3))
			}
			o := w.op(id)
			o.seq = w.s.Log().Appended()
			must(w.t, w.s.Log().AppendSync(w.epoch, id, o.off, o.n, o.data))
			w.ops = append(w.ops, o)
			if w.hashes && w.r.IntN(2) == 0 {
				w.checkHashes() // the next sync record may have the same seq
			}
		}
		must(w.t, w.s.Log().AppendControl(w.epoch, journal.SyncEnd{Volume: id}))
	}
	w.fence()
}

func (w *world) op(id journal.VolumeID) op {
	unit := []int64{1, 512, 4096}[w.r.IntN(3)]
	o := op{vol: id, off: w.r.Int64N(volSize/unit) * unit}
	o.n = min(unit*(1+w.r.Int64N(1+12288/unit)), volSize-o.off)
	if w.r.IntN(2) == 0 { // a few blocks are written all the time
		o.off = w.r.Int64N(4) * 4096
		o.n = min(o.n, 8192)
	}
	if w.r.IntN(4) > 0 {
		o.data = make([]byte, o.n)
		for i := range o.data {
			o.data[i] = byte(w.r.Uint32())
		}
	}
	return o
}

func (w *world) writes(n int) { w.append(w.draw(n)) }

// draw makes up a batch of writes, and has the model know it.
func (w *world) draw(n int) journal.Batch {
	var ops []op
	for range n {
		ops = append(ops, w.op(journal.VolumeID(1+w.r.IntN(volumes))))
	}
	return w.batch(ops...)
}

// batch is a batch of writes, which the model knows then.
func (w *world) batch(ops ...op) journal.Batch {
	first := w.s.Log().Appended() + 1
	b := journal.Batch{Kind: journal.KindWrites, Epoch: w.epoch, First: first}
	var region []byte
	for i, o := range ops {
		w.clock = w.clock.Add(time.Second)
		o.seq = first + journal.Seq(i)
		h := journal.Header{Op: journal.OpWrite, Volume: o.vol, Seq: o.seq, Off: o.off, Len: uint32(o.n), PayloadLen: uint32(len(o.data)), Time: w.clock.UnixNano()}
		if o.data == nil {
			h.Op = []journal.Op{journal.OpZero, journal.OpTrim}[w.r.IntN(2)]
		}
		p := make([]byte, h.Size())
		h.Encode(p)
		copy(p[journal.EntryHeaderSize:], o.data)
		journal.CommitEntry(p)
		region = append(region, p...)
		w.ops = append(w.ops, o)
	}
	b.Regions = [][]byte{region}
	return b
}

func (w *world) append(b journal.Batch) {
	must(w.t, w.s.Log().Append(b))
	w.highest = max(w.highest, w.s.Log().Appended())
}

func (w *world) fence() {
	must(w.t, w.s.Log().AppendControl(w.epoch, journal.Fence{Seq: w.s.Log().Appended(), Wall: w.clock.UnixNano()}))
}

func (w *world) sync() {
	_, err := w.s.Log().Sync()
	must(w.t, err)
}

// state is a volume as the model has it after all ops with seq ≤ at.
func (w *world) state(id journal.VolumeID, at journal.Seq) []byte {
	p := bytes.Clone(w.initial[id])
	for _, o := range w.ops {
		if o.vol != id || o.seq > at {
			continue
		}
		clear(p[o.off : o.off+o.n])
		copy(p[o.off:], o.data)
	}
	return p
}

func (w *world) retain() {
	pol := Retention{History: time.Duration(1+w.r.IntN(200)) * time.Second}
	if w.r.IntN(3) == 0 {
		pol = Retention{MaxBytes: w.s.Log().Bytes() * int64(w.r.IntN(100)) / 100}
	}
	before := w.s.Manifest().Oldest
	res, err := w.s.Retain(context.Background(), w.clock, pol)
	must(w.t, err)
	if pol.History == 0 || len(w.s.Ranges()) == 0 {
		return
	}
	if seq, err := w.s.Log().SeqAt(w.clock.Add(-pol.History)); err == nil && res.Oldest > max(seq, before) {
		w.t.Fatalf("oldest point is %d, but %d is promised", res.Oldest, seq)
	}
}

// crash pulls the plug, in the middle of retention half of the time, and goes
// on with what is left.
func (w *world) crash() {
	if w.r.IntN(2) == 0 {
		w.sync()
	}
	promised := w.s.Log().Durable()
	if w.r.IntN(2) == 0 {
		var n atomic.Int64 // the journal syncs in the background, too
		n.Store(w.r.Int64N(12))
		fs, seed := w.fs, w.r.Uint64()
		fs.OnSync(func(string) error {
			if n.Add(-1) == -1 {
				w.crashed.Store(fs.Crash(seed))
			}
			return nil
		}, false)
		w.settleAndRetain()
		w.fs.OnSync(nil, false)
	}
	left := w.crashed.Swap(nil)
	if left == nil {
		promised = w.s.Log().Durable()
		left = w.fs.Crash(w.r.Uint64())
	}
	w.reopen(left)
	if got := w.s.Log().Appended(); got < promised {
		w.t.Fatalf("seq %d was promised, %d is there", promised, got)
	}
	w.forgetLost()
	w.check()
	w.checkHashes()
	w.resync()
}

func (w *world) settleAndRetain() {
	w.fence()
	w.sync()
	w.retain()
}

func (w *world) reopen(fs *crashfs.FS) {
	for _, h := range w.views {
		must(w.t, h.v.Close())
	}
	w.views = nil
	must(w.t, w.s.Close())
	w.crashed.Store(nil) // a sync in the background may have come too late
	w.fs = fs
	s, err := Open(fs, groupDir, w.config())
	must(w.t, err)
	w.s = s
}

// forgetLost takes from the model what the crash took from the journal: its
// end. What is there must be what was appended.
func (w *world) forgetLost() {
	first := w.s.Manifest().Oldest
	i := slices.IndexFunc(w.ops, func(o op) bool { return o.seq > first })
	if i < 0 {
		return
	}
	must(w.t, w.s.Log().Scan(first+1, func(h journal.Header, _ func() ([]byte, error)) error {
		if !h.Op.Data() {
			return nil
		}
		if i == len(w.ops) || w.ops[i].seq != h.Seq || w.ops[i].off != h.Off || w.ops[i].vol != h.Volume {
			return fmt.Errorf("journal has seq %d of volume %d at %d, which is not what was appended", h.Seq, h.Volume, h.Off)
		}
		i++
		return nil
	}))
	w.ops = w.ops[:i]
}

// check compares points, old and new, with the model.
func (w *world) check() {
	w.t.Helper()
	oldest := w.s.Manifest().Oldest
	for _, r := range w.s.Ranges() {
		if r.From < oldest {
			w.t.Fatalf("range %v begins before the oldest point, %d", r, oldest)
		}
		for _, at := range []journal.Seq{r.From, r.To, r.From + journal.Seq(w.r.Uint64N(uint64(r.To-r.From)+1))} {
			for id := journal.VolumeID(1); id <= volumes; id++ {
				v, err := w.s.View(id, at)
				must(w.t, err)
				want := w.state(id, at)
				w.compare(v, want)
				if w.hold && len(w.views) < 6 && w.r.IntN(30) == 0 {
					w.views = append(w.views, heldView{v, want})
					continue
				}
				must(w.t, v.Close())
			}
		}
	}
	for _, h := range w.views {
		w.compare(h.v, h.want)
	}
	if len(w.views) > 0 && w.r.IntN(4) == 0 {
		must(w.t, w.views[0].v.Close())
		w.views = w.views[1:]
	}
	got := make([]byte, volSize)
	if _, err := w.s.Latest(1).ReadAt(got, 0); err != nil || !bytes.Equal(got, w.state(1, w.highest)) {
		w.t.Fatalf("latest state differs from the model: %v", err)
	}
	if _, err := w.s.View(1, oldest-1); oldest > 0 && !errors.Is(err, ErrNoPoint) {
		w.t.Fatalf("view below the oldest point: %v", err)
	}
}

func (w *world) compare(v *View, want []byte) {
	w.t.Helper()
	got := make([]byte, volSize)
	if _, err := v.ReadAt(got, 0); err != nil {
		w.t.Fatalf("volume %d at %d: %v", v.id, v.at, err)
	}
	if !bytes.Equal(got, want) {
		i := 0
		for got[i] == want[i] {
			i++
		}
		w.t.Fatalf("volume %d at %d: byte %d is %#x, want %#x; base %d", v.id, v.at, i, got[i], want[i], w.s.Manifest().Base)
	}
	off := w.r.Int64N(volSize)
	part := make([]byte, 1+w.r.IntN(9000))
	n, err := v.ReadAt(part, off)
	if n < len(part) && !errors.Is(err, io.EOF) || !bytes.Equal(part[:n], want[off:off+int64(n)]) {
		w.t.Fatalf("volume %d at %d: %d bytes at %d differ: %v", v.id, v.at, n, off, err)
	}
	exts, err := v.Extents(0, volSize)
	must(w.t, err)
	next := int64(0)
	for _, e := range exts {
		if e.Off != next || e.Len <= 0 || e.Hole && len(bytes.Trim(want[e.Off:e.Off+e.Len], "\x00")) > 0 {
			w.t.Fatalf("volume %d at %d: extent %+v after %d", v.id, v.at, e, next)
		}
		next += e.Len
	}
	if next != volSize {
		w.t.Fatalf("extents end at %d", next)
	}
}

func (w *world) step() {
	switch w.r.IntN(16) {
	case 0:
		w.resync()
	case 1, 2:
		w.settleAndRetain()
	case 3:
		w.reopen(w.fs)
		w.epoch = w.s.Log().Timeline().Epoch
	case 4:
		w.crash()
	case 5:
		w.sync()
	case 6, 7:
		w.fence()
	case 8:
		w.check()
	case 9, 10:
		w.checkHashes()
	default:
		w.writes(1 + w.r.IntN(12))
	}
}

// TestModel: any point, mounted, equals the model; after retention, restarts,
// syncs and power losses too.
func TestModel(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed)
			w.hold = true
			for range 120 {
				w.step()
			}
			w.fence()
			w.sync()
			w.check()
			for _, h := range w.views {
				must(t, h.v.Close())
			}
			if pins := w.s.Pinned(); len(pins) != 0 {
				t.Fatalf("pinned: %v", pins)
			}
			_, err := journal.Check(vfs.FS(w.fs), groupDir+"/journal", func(f journal.Finding) { t.Errorf("%v", f) })
			must(t, err)
		})
	}
}
