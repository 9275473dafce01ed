package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/errorfs"
	"github.com/rephub/rephub/journal"
)

// history writes n seqs, a second apart, with fences, and makes them durable.
func (w *world) history(n int) {
	for range n / 5 {
		w.writes(5)
		w.fence()
	}
	w.sync()
}

func TestRetainKeepsWhatIsPromised(t *testing.T) {
	w := newWorld(t, 100)
	w.history(200)
	newest := w.s.Log().Appended()

	pin := newest - 100
	release, err := w.s.Pin(pin)
	must(t, err)
	must(t, w.s.Log().AppendControl(w.epoch, journal.Checkpoint{Name: "keep", Seq: newest - 150}))
	w.sync()
	for _, c := range []struct {
		name         string
		undo         func()
		pol          Retention
		oldest, held journal.Seq
		over         bool
	}{
		{"history", nil, Retention{History: 180 * time.Second}, newest - 180, 0, false},
		{"nothing to do", nil, Retention{History: 190 * time.Second}, newest - 180, 0, false},
		{"checkpoint", nil, Retention{History: 120 * time.Second}, newest - 150, newest - 150, false},
		{"promised over size", nil, Retention{History: 160 * time.Second, MaxBytes: 1}, newest - 150, 0, true},
		{"size, checkpoint holds", nil, Retention{MaxBytes: 1}, newest - 150, newest - 150, true},
		{"size, pin holds", func() {
			must(t, w.s.Log().AppendControl(w.epoch, journal.CheckpointRemoved{Name: "keep"}))
			w.sync()
		}, Retention{MaxBytes: 1}, pin, pin, true},
		{"free", release, Retention{History: 10 * time.Second}, newest - 10, 0, false},
	} {
		if c.undo != nil {
			c.undo()
		}
		before := w.s.Manifest().Oldest
		res, err := w.s.Retain(context.Background(), w.clock, c.pol)
		must(t, err)
		if res.Oldest != c.oldest || res.Held != c.held || res.Over != c.over || res.Moved != (before != c.oldest) {
			t.Fatalf("%s: %+v, want oldest %d held by %d, over %v", c.name, res, c.oldest, c.held, c.over)
		}
		if m := w.s.Manifest(); m.Base != c.oldest || m.Oldest != c.oldest {
			t.Fatalf("%s: %+v", c.name, m)
		}
		w.check()
	}
}

// TestRetainFailsAnywhere fails each I/O of a Retain: points keep their
// content, and the next Retain completes it.
func TestRetainFailsAnywhere(t *testing.T) {
	boom := errors.New("boom")
	for n := int64(1); ; n++ {
		w := newWorld(t, 200)
		w.history(40)
		must(t, w.s.Close())
		var armed atomic.Bool
		decide, fired := errorfs.Nth(n, errorfs.Changes, boom)
		fs := errorfs.New(w.fs, func(c errorfs.Call) error {
			if !armed.Load() {
				return nil
			}
			return decide(c)
		})
		s, err := Open(fs, groupDir, w.config())
		must(t, err)
		w.s = s
		armed.Store(true)
		pol := Retention{History: 20 * time.Second}
		_, err = s.Retain(context.Background(), w.clock, pol)
		armed.Store(false)
		if fired() && err != nil && !errors.Is(err, boom) {
			t.Fatal(err)
		}
		w.check()
		if errors.Is(s.Log().Err(), journal.ErrSyncFailed) {
			must(t, s.Log().Recover())
		}
		res, err := s.Retain(context.Background(), w.clock, pol)
		if errors.Is(err, os.ErrNotExist) {
			// A segment was removed, its directory not synced: the journal
			// drops no further until it is opened again.
			w.reopen(w.fs)
			s = w.s
			res, err = s.Retain(context.Background(), w.clock, pol)
		}
		must(t, err)
		if want := s.Log().Appended() - 20; res.Oldest != want {
			t.Fatalf("I/O %d: oldest is %d, want %d", n, res.Oldest, want)
		}
		w.check()
		w.reopen(w.fs)
		w.check()
		if !fired() {
			if n < 8 {
				t.Fatalf("only %d I/Os", n)
			}
			return
		}
	}
}

// TestRetainStops ends with its context, and a throttle is asked.
func TestRetainStops(t *testing.T) {
	w := newWorld(t, 300)
	w.history(100)
	ctx, cancel := context.WithCancel(context.Background())
	w.s.cfg.Throttle = func(ctx context.Context, n int) error {
		cancel()
		return ctx.Err()
	}
	if _, err := w.s.Retain(ctx, w.clock, Retention{History: time.Second}); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if m := w.s.Manifest(); m.Base == m.Oldest {
		t.Fatalf("the roll was not interrupted: %+v", m)
	}
	w.check()
	w.s.cfg.Throttle = func(context.Context, int) error { return nil }
	_, err := w.s.Retain(context.Background(), w.clock, Retention{History: time.Second})
	must(t, err)
	if m := w.s.Manifest(); m.Base != m.Oldest {
		t.Fatalf("the roll was not completed: %+v", m)
	}
	w.check()
}

// TestShrink: what a shrink cut off reads as zeroes if it comes back, at
// points between it still shows, and retention knows it too.
func TestShrink(t *testing.T) {
	w := newWorld(t, 400)
	log := w.s.Log()
	w.history(50)
	before := log.Appended()
	const small = 20000
	resize := func(size int64) {
		must(t, w.s.ResizeVolume(1, size))
		must(t, log.AppendControl(w.epoch, journal.VolumeResized{Volume: 1, Size: size}))
		w.highest++
		w.epoch++
		must(t, log.AppendControl(w.epoch, journal.Attach{Seq: w.highest, Whole: []journal.VolumeID{1, 2}}))
		w.fence()
	}
	resize(small)
	middle := log.Appended()
	resize(volSize)
	after := log.Appended()
	w.sync()
	want := map[journal.Seq][]byte{before: w.state(1, before), middle: w.state(1, middle)[:small], after: w.state(1, after)}
	clear(want[after][small:])
	for _, oldest := range []journal.Seq{before, middle, after} {
		if !w.s.announce(oldest) {
			t.Fatal("pinned")
		}
		must(t, w.s.finish(context.Background(), &Result{}))
		for at, p := range want {
			if at < oldest {
				continue
			}
			v, err := w.s.View(1, at)
			must(t, err)
			got := make([]byte, v.Size())
			_, err = v.ReadAt(got, 0)
			must(t, err)
			if !bytes.Equal(got, p) {
				t.Fatalf("base %d: volume at %d differs", oldest, at)
			}
			must(t, v.Close())
		}
	}
}

func TestResolve(t *testing.T) {
	w := newWorld(t, 500)
	w.history(50)
	log := w.s.Log()
	newest := log.Appended()
	must(t, log.AppendControl(w.epoch, journal.Checkpoint{Name: "a", Seq: newest - 7}))
	w.writes(3)
	w.sync() // not fenced: no points
	end := w.clock.Add(-3 * time.Second)
	for text, want := range map[string]journal.Seq{
		"": newest, "latest": newest, "seq:" + (newest - 3).String(): newest - 3, "-13s": newest - 10,
		end.Add(-5 * time.Second).Format(time.RFC3339): newest - 5, "checkpoint:a": newest - 7, "-1s": newest,
	} {
		p, err := journal.ParsePoint(text)
		must(t, err)
		at, when, err := w.s.Resolve(p, w.clock)
		must(t, err)
		if at != want || !when.Equal(end.Add(-time.Duration(newest-want)*time.Second)) {
			t.Fatalf("%q is seq %d of %v, want %d", text, at, when, want)
		}
	}
	for _, text := range []string{"seq:" + (newest + 1).String(), "seq:0", "-3h", "checkpoint:b"} {
		p, err := journal.ParsePoint(text)
		must(t, err)
		if at, _, err := w.s.Resolve(p, w.clock); !errors.Is(err, ErrNoPoint) {
			t.Fatalf("%q is seq %d: %v", text, at, err)
		}
	}
	for _, at := range []journal.Seq{1, newest + 1, newest + 100} {
		if _, err := w.s.View(1, at); !errors.Is(err, ErrNoPoint) {
			t.Fatalf("view at %d, which is not fenced: %v", at, err)
		}
		if _, err := w.s.Volumes(at); !errors.Is(err, ErrNoPoint) {
			t.Fatalf("volumes at %d, which is not fenced: %v", at, err)
		}
	}
	if _, err := w.s.View(3, newest); !errors.Is(err, ErrNoVolume) {
		t.Fatalf("view of a volume that is not there: %v", err)
	}
}

// TestHugeVolume: size alone costs nothing.
func TestHugeVolume(t *testing.T) {
	s, err := Create(vfs.OS(), t.TempDir(), Manifest{ID: journal.GroupID{1}, Volumes: []Volume{{ID: 1, Size: 10 << 40}}}, Config{})
	must(t, err)
	defer s.Close()
	must(t, s.Log().AppendControl(0, journal.VolumeAdded{Volume: 1, Size: 10 << 40}))
	must(t, s.Log().AppendControl(1, journal.Attach{}))
	must(t, s.Log().AppendControl(1, journal.SyncEnd{Volume: 1}, journal.Fence{Seq: 1}))
	_, err = s.Log().Sync()
	must(t, err)
	v, err := s.View(1, 1)
	must(t, err)
	defer v.Close()
	p := bytes.Repeat([]byte{1}, 4096)
	if _, err := v.ReadAt(p, 9<<40); err != nil || len(bytes.Trim(p, "\x00")) > 0 {
		t.Fatalf("not zero, or %v", err)
	}
	exts, err := v.Extents(0, 10<<40)
	if err != nil || len(exts) != 1 || !exts[0].Hole {
		t.Fatalf("extents %v: %v", exts, err)
	}
	if _, err := v.ReadAt(p, math.MaxInt64-10); err == nil {
		t.Fatal("read far beyond the end")
	}
}

func FuzzManifest(f *testing.F) {
	p, err := manifestKind.Encode(&Manifest{ID: journal.GroupID{1}, Name: "g", Base: 3, Oldest: 4, Volumes: []Volume{{ID: 1, Size: 4096}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p)
	f.Add(bytes.Replace(p, []byte("4096"), []byte("4097"), 1))
	f.Add([]byte(`{"magic":"RHMANIFEST","version":2,"body":{}}`))
	f.Add([]byte(`{"magic":"RHMANIFEST","version":1,"crc32c":0}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		m, err := decodeManifest(p)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				t.Fatal(err)
			}
			return
		}
		q, err := manifestKind.Encode(&m)
		must(t, err)
		n, err := decodeManifest(q)
		must(t, err)
		a, _ := json.Marshal(m)
		b, _ := json.Marshal(n)
		if !bytes.Equal(a, b) {
			t.Fatalf("%s became %s", a, b)
		}
	})
}
