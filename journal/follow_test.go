package journal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

func numbered() Options {
	opt := small
	opt.Number = true
	return opt
}

// entriesOf is every entry of a log but the records it made for itself.
func entriesOf(t *testing.T, l *Log) []string {
	t.Helper()
	var all []string
	must(t, l.Scan(0, func(h Header, payload func() ([]byte, error)) error {
		p, err := payload()
		if h.Op != OpBaseMoved {
			all = append(all, fmt.Sprintf("%+v %x", h, p))
		}
		return err
	}))
	return all
}

// ship moves up to n batches; it reports whether there were so many.
func ship(t *testing.T, f *Follower, to *Log, n int) bool {
	t.Helper()
	for range n {
		s, ok, err := f.Next()
		must(t, err)
		if !ok {
			return false
		}
		before := bytes.Clone(s.Entries)
		must(t, to.Append(s.Batch()))
		if !bytes.Equal(before, s.Entries) {
			t.Fatalf("batch %d was changed on its way", s.Serial)
		}
	}
	return true
}

// A journal that follows another has the same entries, byte for byte, though
// both crash and are opened again, and though it moves its own base meanwhile.
func TestFollow(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 3))
		disk, far := memFS(t), memFS(t)
		spool, hub := create(t, disk, numbered()), create(t, far, small)
		w := newWorkload(spool, seed)
		must(t, w.start())
		f, err := spool.Follow(0)
		must(t, err)
		for range 60 {
			for range r.IntN(6) {
				must(t, w.step())
			}
			ship(t, f, hub, r.IntN(8))
			switch r.IntN(12) {
			case 0: // the hub's machine crashes: what it had not synced is shipped again
				promised := hub.DurableSerial()
				far = far.Crash(seed)
				hub = open(t, far, small)
				if hub.Serial() < promised {
					t.Fatalf("batch %d was durable, after the crash there are %d", promised, hub.Serial())
				}
				f, err = spool.Follow(hub.Serial())
				must(t, err)
			case 1: // the agent is started anew
				must(t, spool.Close())
				spool = open(t, disk, numbered())
				w.l = spool
				f, err = spool.Follow(hub.Serial())
				must(t, err)
			case 2:
				must(t, hub.DropBefore(hub.Appended()/2))
			case 3:
				_, err := hub.Sync()
				must(t, err)
			}
		}
		for ship(t, f, hub, 100) {
		}
		f.Close()
		if spool.Serial() != hub.Serial() || spool.Appended() != hub.Appended() {
			t.Fatalf("seed %d: the spool ends at batch %d, seq %d; the hub has %d, %d", seed, spool.Serial(), spool.Appended(), hub.Serial(), hub.Appended())
		}
		want, got := entriesOf(t, spool), entriesOf(t, hub)
		if want = want[len(want)-len(got):]; fmt.Sprint(want) != fmt.Sprint(got) {
			t.Fatalf("seed %d: the entries differ", seed)
		}
	}
}

func TestFollowRefuses(t *testing.T) {
	spool, hub := create(t, memFS(t), numbered()), create(t, memFS(t), small)
	w := newWorkload(spool, 4)
	must(t, w.start())
	for range 100 {
		must(t, spool.Append(w.writes(5)))
	}
	if _, err := hub.Follow(0); !errors.Is(err, ErrInvalid) {
		t.Errorf("follow a journal without numbers: %v", err)
	}
	if _, err := spool.Follow(spool.Serial() + 1); !errors.Is(err, ErrGap) {
		t.Errorf("follow after what is not there: %v", err)
	}
	f, err := spool.Follow(0)
	must(t, err)
	defer f.Close()
	ship(t, f, hub, 3)
	s, ok, err := f.Next()
	if must(t, err); !ok {
		t.Fatal("there is no fourth batch")
	}
	again, skipped := s.Batch(), s.Batch()
	again.Serial--
	skipped.Serial++
	for _, b := range []Batch{again, skipped} {
		if err := hub.Append(b); !errors.Is(err, ErrGap) {
			t.Errorf("batch %d after %d: %v", b.Serial, hub.Serial(), err)
		}
	}
	for _, at := range []int{offCRC, EntryHeaderSize} {
		bad := s
		bad.Entries = bytes.Clone(s.Entries)
		bad.Entries[at] ^= 1
		if err := hub.Append(bad.Batch()); !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrGap) {
			t.Errorf("an entry changed at byte %d on the way: %v", at, err)
		}
	}
	must(t, hub.Append(s.Batch()))

	settled(t, spool)
	must(t, spool.DropShipped(hub.Serial()))
	if _, err := spool.Follow(hub.Serial()); err != nil {
		t.Errorf("what was not shipped is gone: %v", err)
	}
	for ship(t, f, hub, 100) {
	}
	settled(t, spool)
	must(t, spool.DropShipped(hub.Serial()))
	if _, err := spool.Follow(3); !errors.Is(err, ErrDropped) {
		t.Errorf("follow after what was dropped: %v", err)
	}
	if _, err := spool.Follow(spool.Serial()); err != nil {
		t.Errorf("follow from the end: %v", err)
	}
}

// A spool that was lost begins anew at the end of what the hub has.
func TestStartAtTheEndOfAnother(t *testing.T) {
	spool, hub := create(t, memFS(t), numbered()), create(t, memFS(t), small)
	w := newWorkload(spool, 5)
	must(t, w.start())
	must(t, spool.Append(w.writes(9)))
	f, err := spool.Follow(0)
	must(t, err)
	for ship(t, f, hub, 100) {
	}
	f.Close()
	end, opt := hub.End(), numbered()
	opt.Start = &end
	fresh := create(t, memFS(t), opt)
	if got := fresh.End(); got.Last != end.Last || got.Serial != end.Serial || fmt.Sprint(got.Timeline) != fmt.Sprint(end.Timeline) {
		t.Fatalf("it begins at %+v, not %+v", got, end)
	}
	w2 := newWorkload(fresh, 6)
	must(t, w2.attach())
	must(t, fresh.Append(w2.writes(9)))
	f, err = fresh.Follow(hub.Serial())
	must(t, err)
	defer f.Close()
	for ship(t, f, hub, 100) {
	}
	if hub.Appended() != fresh.Appended() || hub.Timeline().Epoch != w2.epoch {
		t.Fatalf("the hub is at seq %d, epoch %d", hub.Appended(), hub.Timeline().Epoch)
	}
}

// A journal that is only followed has no index, and is as good to follow.
func TestFollowWithoutIndex(t *testing.T) {
	fs := memFS(t)
	opt := numbered()
	opt.NoIndex = true
	l := create(t, fs, opt)
	w := newWorkload(l, 61)
	must(t, w.start())
	fenced(t, l, w, 60)
	if _, err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	half := l.Serial() / 2
	must(t, l.DropShipped(half))
	must(t, l.Close())
	l = open(t, fs, opt)
	w.l = l
	fenced(t, l, w, 10)
	_, err := l.Sync()
	must(t, err)
	for name := range image(t, fs) {
		if strings.Contains(name, indexDir) {
			t.Errorf("there is %s", name)
		}
	}
	f, err := l.Follow(half)
	must(t, err)
	defer f.Close()
	for n := half + 1; ; n++ {
		s, ok, err := f.Next()
		must(t, err)
		if !ok {
			if n != l.Serial()+1 {
				t.Fatalf("followed up to batch %d of %d", n-1, l.Serial())
			}
			break
		}
		if s.Serial != n {
			t.Fatalf("batch %d after %d", s.Serial, n-1)
		}
	}
	if len(l.st.pending) != 0 {
		t.Errorf("%d segments wait for an index", len(l.st.pending))
	}
}
