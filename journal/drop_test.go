package journal

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/crashfs"
	"github.com/rephub/rephub/internal/vfs/errorfs"
)

// fenced appends batches of writes with a fence after each.
func fenced(t *testing.T, l *Log, w *workload, batches int) {
	t.Helper()
	for range batches {
		must(t, l.Append(w.writes(6)))
		must(t, l.AppendControl(w.epoch, Fence{Seq: l.Appended()}))
	}
}

func settled(t *testing.T, l *Log) {
	t.Helper()
	_, err := l.Sync()
	must(t, err)
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		l.mu.Lock()
		n := len(l.st.pending)
		l.mu.Unlock()
		if n == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d segments are still without an index", n)
		}
	}
}

func TestDropBefore(t *testing.T) {
	fs := memFS(t)
	l := create(t, fs, small)
	w := newWorkload(l, 41)
	must(t, w.start())
	must(t, l.AppendControl(w.epoch, SyncEnd{Volume: 1}, SyncEnd{Volume: 2}))
	fenced(t, l, w, 100)
	must(t, w.attach())
	must(t, l.AppendControl(w.epoch, SyncEnd{Volume: 1}, SyncEnd{Volume: 2}))
	fenced(t, l, w, 100)
	must(t, l.Close())
	l = open(t, fs, small)
	w.l = l
	settled(t, l)
	before, all, segs := l.Bytes(), contents(t, l), len(image(t, fs))
	if got := l.Timeline().Ranges; len(got) != 2 || segs < 10 {
		t.Fatalf("%d segments with ranges %v", segs, got)
	}
	base := l.Timeline().Ranges[1].From + 40
	if err := l.DropBefore(l.Appended() + 1); !errors.Is(err, ErrInvalid) {
		t.Fatalf("drop what was never written: %v", err)
	}
	must(t, l.DropBefore(base))
	must(t, l.DropBefore(base))
	check := func(l *Log) {
		t.Helper()
		tl := l.Timeline()
		if len(tl.Ranges) != 1 || tl.Ranges[0].From != base || tl.Base != base {
			t.Fatalf("ranges %v, base %d, want from %d", tl.Ranges, tl.Base, base)
		}
		if first := l.FirstSeq(); first > base+1 || first+200 < base {
			t.Fatalf("the first seq is %d, base %d", first, base)
		}
		got := contents(t, l)
		got = got[:len(got)-1] // the base-moved record
		if !equal(got, all[len(all)-len(got):]) {
			t.Fatal("what is left is no suffix of the log")
		}
		if len(got) == 0 || got[0].Seq > base+1 {
			t.Fatalf("entries above the base %d are gone", base)
		}
	}
	check(l)
	if l.Bytes() >= before || len(image(t, fs)) >= segs {
		t.Fatalf("%d bytes in %d files, before %d in %d", l.Bytes(), len(image(t, fs)), before, segs)
	}
	if err := l.ReadPayload(make([]byte, 1), 1, segmentBlock); !errors.Is(err, ErrDropped) {
		t.Fatalf("read from a dropped segment: %v", err)
	}
	must(t, l.Close())
	l = open(t, fs, small)
	check(l)
	wholeCheck(t, fs)
	var size int64
	for _, p := range image(t, fs) {
		size += int64(len(p))
	}
	if l.Bytes() != size {
		t.Fatalf("Bytes() is %d, the files have %d", l.Bytes(), size)
	}
	for _, base := range []Seq{base + 1, base + 2, base + 3, base + 9, base + 10, base + 40} {
		must(t, l.DropBefore(base))
		if got := contents(t, l); got[0].Seq > base+1 {
			t.Fatalf("base %d, the first seq left is %d", base, got[0].Seq)
		}
	}
	must(t, l.DropBefore(l.Appended()))
	settled(t, l)
	if _, ok := l.Timelined().Newest(); !ok {
		t.Fatal("the base itself is no longer a point")
	}
}

// TestCrashWhileDropping: no crash leaves a gap in the files.
func TestCrashWhileDropping(t *testing.T) {
	fs := memFS(t)
	l := create(t, fs, small)
	w := newWorkload(l, 42)
	must(t, w.start())
	fenced(t, l, w, 150)
	settled(t, l)
	history, durable := contents(t, l), l.Durable()
	var mu sync.Mutex // the indexer syncs too, whenever it likes
	var shots []*crashfs.FS
	fs.OnSync(func(string) error {
		mu.Lock()
		defer mu.Unlock()
		for seed := range uint64(3) {
			shots = append(shots, fs.Crash(uint64(len(shots))<<8|seed))
		}
		return nil
	}, false)
	must(t, l.DropBefore(l.Appended()-10))
	fs.OnSync(nil, false)
	mu.Lock()
	defer mu.Unlock()
	if len(shots) < 20 {
		t.Fatalf("only %d crashes", len(shots))
	}
	for _, fs := range shots {
		l := open(t, fs, small)
		got := contents(t, l)
		if l.Appended() < durable {
			t.Fatalf("the log ends at %d, %d was durable", l.Appended(), durable)
		}
		if last := got[len(got)-1]; last.Op == OpBaseMoved {
			got = got[:len(got)-1]
		}
		if !equal(got, history[len(history)-len(got):]) {
			t.Fatal("what is left is no suffix of the log")
		}
		must(t, l.Close())
	}
}

// TestDropOnAFullDisk: dropping is how space comes back, so it must not need any.
func TestDropOnAFullDisk(t *testing.T) {
	base := memFS(t)
	var full atomic.Bool // the indexer writes too, whenever it likes
	fs := errorfs.New(base, func(c errorfs.Call) error {
		if full.Load() && c.Op == errorfs.Write {
			return &os.PathError{Op: "write", Path: c.Name, Err: os.ErrInvalid}
		}
		return nil
	})
	l := create(t, fs, small)
	w := newWorkload(l, 43)
	must(t, w.start())
	fenced(t, l, w, 100)
	settled(t, l)
	files := len(image(t, base))
	full.Store(true)
	if err := l.Append(w.writes(3)); !errors.Is(err, os.ErrInvalid) {
		t.Fatalf("append on a full disk: %v", err)
	}
	must(t, l.DropBefore(l.Appended()))
	if got := len(image(t, base)); got >= files {
		t.Fatalf("%d files, before %d", got, files)
	}
	full.Store(false)
	must(t, l.Append(w.writes(3)))
}

// openHook calls a function before a file is opened.
type openHook struct {
	vfs.FS
	before func(name string)
}

func (h openHook) OpenFile(name string, flag int, perm os.FileMode) (vfs.File, error) {
	h.before(name)
	return h.FS.OpenFile(name, flag, perm)
}

// A journal may be read offline while the hub drops its oldest segments.
func TestReadWhileSegmentsAreDropped(t *testing.T) {
	for _, at := range []int{0, 3} { // the segment before which the drop comes
		fs := memFS(t)
		l := create(t, fs, small)
		w := newWorkload(l, 43)
		must(t, w.start())
		must(t, l.AppendControl(w.epoch, SyncEnd{Volume: 1}, SyncEnd{Volume: 2}))
		fenced(t, l, w, 100)
		settled(t, l)
		first := l.FirstSeq()
		hook := openHook{fs, nil}
		opened := 0
		hook.before = func(string) {
			if opened++; opened == at+1 {
				must(t, l.DropBefore(l.Timeline().Ranges[0].To-10))
			}
		}
		sum, err := Check(hook, testDir, func(f Finding) { t.Errorf("drop at segment %d: %v", at, f) })
		must(t, err)
		if l.FirstSeq() <= first {
			t.Fatal("nothing was dropped")
		}
		if sum.LastSeq != l.Appended() {
			t.Errorf("drop at segment %d: read up to seq %d of %d", at, sum.LastSeq, l.Appended())
		}
		must(t, l.Close())
	}
}
