package journal

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"

	"github.com/rephub/rephub/internal/vfs/crashfs"
	"github.com/rephub/rephub/internal/vfs/errorfs"
)

// snapshot is a file system after a power loss, and what had been promised.
type snapshot struct {
	fs      *crashfs.FS
	durable Seq
	points  Timeline
}

// verify opens what a crash left: all that was promised is there, what is there
// is a prefix of the history, and the log goes on.
func (s snapshot) verify(t *testing.T, history []visited) {
	t.Helper()
	l, err := Open(s.fs, testDir, small)
	if err != nil {
		t.Fatalf("open after a crash: %v", err)
	}
	defer l.Close()
	got := contents(t, l)
	if !prefix(got, history) {
		t.Fatalf("%d entries after the crash are no prefix of the history", len(got))
	}
	if l.Appended() < s.durable || l.Durable() < s.durable {
		t.Fatalf("seq %d was durable, after the crash the log ends at %d", s.durable, l.Appended())
	}
	if newest, ok := s.points.Newest(); ok && !l.Timelined().IsPoint(newest) {
		t.Fatalf("point %d was promised; after the crash: %v", newest, l.Timeline().Ranges)
	}
	wholeCheck(t, s.fs)
	w := newWorkload(l, 99)
	must(t, w.start())
	must(t, l.Append(w.writes(20)))
	_, err = l.Sync()
	must(t, err)
	after := contents(t, l)
	if !prefix(got, after) || len(after) < len(got)+20 {
		t.Fatalf("appending after the crash: %d entries became %d", len(got), len(after))
	}
	must(t, l.Close())
	again := open(t, s.fs, small)
	if !equal(contents(t, again), after) {
		t.Fatal("what was appended after the crash is not there after reopening")
	}
}

func wholeCheck(t *testing.T, fs *crashfs.FS) Summary {
	t.Helper()
	s, err := Check(fs, testDir, func(f Finding) { t.Errorf("check: %v", f) })
	must(t, err)
	return s
}

func TestCrashAtEverySync(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			fs := memFS(t)
			l := create(t, fs, small)
			w := newWorkload(l, seed)
			var mu sync.Mutex
			var shots []snapshot
			shoot := func() {
				mu.Lock()
				defer mu.Unlock()
				// What was promised is read first: the disk may have more.
				s := snapshot{durable: l.Durable(), points: l.DurableTimeline()}
				s.fs = fs.Crash(seed<<32 | uint64(len(shots)))
				shots = append(shots, s)
			}
			must(t, w.start())
			fs.OnSync(func(string) error { shoot(); return nil }, false)
			for i := range 150 {
				must(t, w.step())
				if i%5 == 0 {
					_, err := l.Sync()
					must(t, err)
				}
				if i%3 == 0 {
					shoot()
				}
			}
			must(t, l.Close())
			fs.OnSync(nil, false)
			history := contents(t, open(t, fs, small))
			if len(shots) < 80 {
				t.Fatalf("only %d crashes", len(shots))
			}
			for i, s := range shots {
				if i%3 == int(seed%3) {
					s.verify(t, history)
				}
			}
		})
	}
}

// TestEveryIOFails fails the i-th I/O of a run, for every i until a run has
// fewer: the error shows, nothing promised is lost, and after reopening the log
// goes on.
func TestEveryIOFails(t *testing.T) {
	for _, cause := range []error{syscall.EIO, syscall.ENOSPC} {
		for i := int64(1); ; i++ {
			if i > 5000 {
				t.Fatal("there is no end of I/Os")
			}
			decide, fired := errorfs.Nth(i, errorfs.All, cause)
			runWithErrors(t, decide, cause)
			if !fired() {
				break
			}
		}
	}
}

func runWithErrors(t *testing.T, decide func(errorfs.Call) error, cause error) {
	t.Helper()
	base := memFS(t)
	fs := errorfs.New(base, decide)
	var acked int
	var durable Seq
	err := func() error {
		l, err := Create(fs, testDir, testGroup, small)
		if err != nil {
			return err
		}
		w := newWorkload(l, 11)
		err = w.start()
		for n := 0; n < 40 && err == nil; n++ {
			if err = w.step(); err == nil && n%4 == 0 {
				_, err = l.Sync()
			}
		}
		if err != nil && !errors.Is(err, cause) {
			t.Fatalf("error does not say why: %v", err)
		}
		if err != nil && !errors.Is(err, ErrSyncFailed) {
			// The log can go on at once.
			if gerr := l.Append(w.writes(2)); gerr != nil {
				t.Fatalf("append after %v: %v", err, gerr)
			}
		}
		if errors.Is(err, ErrSyncFailed) {
			if gerr := l.Append(w.writes(2)); !errors.Is(gerr, ErrSyncFailed) {
				t.Fatalf("append after a failed sync: %v", gerr)
			}
			must(t, l.Recover())
			must(t, l.Append(w.writes(2)))
		}
		acked, durable = int(l.Appended()), l.Durable()
		l.Close()
		return err
	}()
	crashed := base.Crash(1)
	l, oerr := Open(base, testDir, small)
	if oerr != nil && err != nil && acked == 0 {
		must(t, base.MkdirAll(testDir, 0o700))
		l, oerr = Create(base, testDir, testGroup, small) // the creation had failed
	}
	must(t, oerr)
	defer l.Close()
	if int(l.Appended()) < acked {
		t.Fatalf("after reopening %d of %d seqs", l.Appended(), acked)
	}
	history := contents(t, l)
	w := newWorkload(l, 12)
	must(t, w.start())
	must(t, l.Append(w.writes(3)))
	wholeCheck(t, base)
	if acked > 0 {
		snapshot{fs: crashed, durable: durable}.verify(t, history)
	}
}

// TestFailedSyncIsNotBelieved: after a failed sync the cache shows what the disk
// will never get. The log must not promise it, until Recover has written it anew.
func TestFailedSyncIsNotBelieved(t *testing.T) {
	for _, reopen := range []bool{false, true} {
		fs := memFS(t)
		l := create(t, fs, small)
		w := newWorkload(l, 21)
		must(t, w.start())
		_, err := l.Sync()
		must(t, err)
		promised := l.Durable()
		for range 30 {
			must(t, l.Append(w.writes(5)))
		}
		fs.OnSync(func(string) error { return syscall.EIO }, false)
		if _, err := l.Sync(); !errors.Is(err, ErrSyncFailed) || !errors.Is(err, syscall.EIO) {
			t.Fatalf("sync: %v", err)
		}
		fs.OnSync(nil, false)
		if _, err := l.Sync(); !errors.Is(err, ErrSyncFailed) {
			t.Fatalf("second sync: %v", err)
		}
		if err := l.Append(w.writes(1)); !errors.Is(err, ErrSyncFailed) {
			t.Fatalf("append: %v", err)
		}
		if l.Durable() > promised && !reopen {
			t.Logf("the indexer had synced up to %d", l.Durable())
		}
		history := contents(t, l)
		if reopen {
			l.Close()
			l = open(t, fs, small)
		} else {
			must(t, l.Recover())
		}
		if l.Durable() != l.Appended() || !equal(contents(t, l), history) {
			t.Fatalf("durable %d of %d", l.Durable(), l.Appended())
		}
		for seed := range uint64(20) {
			snapshot{fs: fs.Crash(seed), durable: l.Durable()}.verify(t, history)
		}
		w.l = l
		must(t, l.Append(w.writes(5)))
		_, err = l.Sync()
		must(t, err)
		snapshot{fs: fs.Crash(77), durable: l.Durable()}.verify(t, contents(t, l))
	}
}

// TestRecoverSeesWhatTheCacheLost: the cache forgot the bytes that the failed
// sync lost. Recover says so; reopening cuts them off.
func TestRecoverSeesWhatTheCacheLost(t *testing.T) {
	fs := memFS(t)
	l := create(t, fs, small)
	w := newWorkload(l, 22)
	must(t, w.start())
	must(t, l.Append(w.writes(5)))
	_, err := l.Sync()
	must(t, err)
	promised, before := l.Durable(), contents(t, l)
	must(t, l.Append(w.writes(12)))
	fs.OnSync(func(string) error { return syscall.EIO }, true)
	if _, err := l.Sync(); !errors.Is(err, ErrSyncFailed) {
		t.Fatalf("sync: %v", err)
	}
	fs.OnSync(nil, false)
	if err := l.Recover(); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("recover: %v", err)
	}
	if err := l.Append(w.writes(1)); !errors.Is(err, ErrSyncFailed) {
		t.Fatalf("append: %v", err)
	}
	l.Close()
	l = open(t, fs, small)
	if got := contents(t, l); l.Appended() != promised || !equal(got, before) || !l.Recovered().Cut {
		t.Fatalf("reopened at %d with %d entries, want %d with %d; %+v", l.Appended(), len(got), promised, len(before), l.Recovered())
	}
}

// TestAppendDuringSync: an append does not wait for a sync in progress, and the
// sync does not vouch for it.
func TestAppendDuringSync(t *testing.T) {
	fs := memFS(t)
	l := create(t, fs, Options{Now: small.Now})
	w := newWorkload(l, 23)
	must(t, w.start())
	must(t, l.AppendControl(w.epoch, SyncEnd{Volume: 1}, SyncEnd{Volume: 2}))
	must(t, l.Append(w.writes(3)))
	before := l.Appended()
	during := 0
	fs.OnSync(func(string) error {
		during++
		must(t, l.Append(w.writes(2)))
		must(t, l.AppendControl(w.epoch, Fence{Seq: l.Appended()}))
		return nil
	}, false)
	seq, err := l.Sync()
	must(t, err)
	fs.OnSync(nil, false)
	if during == 0 || l.Appended() != before+Seq(2*during) {
		t.Fatalf("%d appends during the sync", during)
	}
	if seq != before || l.Durable() != before {
		t.Fatalf("the sync says %d, durable is %d; %d was appended before it", seq, l.Durable(), before)
	}
	if p, ok := l.DurableTimelined().Newest(); ok {
		t.Fatalf("point %d is called durable, its fence was not synced", p)
	}
	if _, err := l.Sync(); err != nil || l.Durable() != l.Appended() {
		t.Fatalf("durable %d of %d, %v", l.Durable(), l.Appended(), err)
	}
	if p, ok := l.DurableTimelined().Newest(); !ok || p != l.Appended() {
		t.Fatalf("the durable point is %d, %v", p, ok)
	}
}

func (l *Log) DurableTimelined() *Timeline {
	t := l.DurableTimeline()
	return &t
}

// TestCrashWithManyUnsyncedSegments: the disk was so slow that several segments
// were never synced; any of their files may be missing or torn. Then the power
// fails again while the journal is being opened.
func TestCrashWithManyUnsyncedSegments(t *testing.T) {
	fs := memFS(t)
	l := create(t, fs, small)
	w := newWorkload(l, 24)
	must(t, w.start())
	must(t, l.Append(w.writes(6)))
	_, err := l.Sync()
	must(t, err)
	l.cancel() // the indexer would sync
	<-l.done
	promised := snapshot{durable: l.Durable(), points: l.DurableTimeline()}
	for len(l.st.segs) < 7 {
		must(t, l.Append(w.writes(6)))
	}
	history := contents(t, l)
	cut, gaps := 0, 0
	for seed := range uint64(60) {
		s := promised
		s.fs = fs.Crash(seed)
		numbers, err := listSegments(s.fs, testDir)
		must(t, err)
		if len(numbers) > 0 && int(numbers[len(numbers)-1]) != len(numbers) {
			gaps++
		}
		var mu sync.Mutex // the indexer syncs too, while the log is open
		var again []*crashfs.FS
		s.fs.OnSync(func(string) error {
			mu.Lock()
			defer mu.Unlock()
			again = append(again, s.fs.Crash(seed<<8|uint64(len(again))))
			return nil
		}, false)
		l, err := Open(s.fs, testDir, small)
		must(t, err)
		if l.Recovered().Cut {
			cut++
		}
		must(t, l.Close())
		s.fs.OnSync(nil, false)
		s.verify(t, history)
		for _, fs := range again {
			s.fs = fs
			s.verify(t, history)
		}
	}
	if cut < 10 || gaps < 5 {
		t.Fatalf("only %d torn tails and %d gaps among the crashes", cut, gaps)
	}
}
