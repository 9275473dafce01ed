package protect

import (
	"context"
	"os"
	"strings"
	gosync "sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// stuckFS makes nothing durable while its gate is held, takes no writes while its
// door is, and refuses them while it is full.
type stuckFS struct {
	vfs.FS
	gate, door gosync.RWMutex
	full       atomic.Bool
	waiting    atomic.Int64 // writes that stand at the door
}

func (s *stuckFS) OpenFile(name string, flag int, perm os.FileMode) (vfs.File, error) {
	f, err := s.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &stuckFile{f, s}, nil
}

type stuckFile struct {
	vfs.File
	fs *stuckFS
}

func (f *stuckFile) Writev(bufs [][]byte, off int64) (int, error) {
	f.fs.waiting.Add(1)
	f.fs.door.RLock()
	defer f.fs.door.RUnlock()
	f.fs.waiting.Add(-1)
	if f.fs.full.Load() {
		return 0, unix.ENOSPC
	}
	return f.File.Writev(bufs, off)
}

func (f *stuckFile) Sync() error {
	f.fs.gate.RLock()
	defer f.fs.gate.RUnlock()
	return f.File.Sync()
}

// While the disk hangs over making writes durable, nobody is told that they are safe.
func TestNothingDurableIsNotProtected(t *testing.T) {
	fs := &stuckFS{FS: vfs.OS()}
	s := newSite(t)
	s.fs, s.cfg.MonitorTimeout = fs, 2*time.Second
	q := vmtest.Start(t, vmtest.Config{})
	g := s.start(q)
	g.reach(StateProtected)
	func() {
		fs.gate.Lock()
		defer fs.gate.Unlock()
		vmtest.IO(t, q.GuestURI("disk0"), "write -P 5 1M 64k")
		g.reach(StateDegraded)
	}()
	g.reach(StateProtected)
	g.equal(q)
}

// A journal's disk that is stuck, in whatever way, holds up neither a pause nor a stop
// for longer than was agreed: the taps go in order, and the rest is synced.
func TestDetachFromAStuckDisk(t *testing.T) {
	for name, stick := range map[string]func(fs *stuckFS) (unstick func()){
		"sync hangs":  func(fs *stuckFS) func() { fs.gate.Lock(); return fs.gate.Unlock },
		"write hangs": func(fs *stuckFS) func() { fs.door.Lock(); return fs.door.Unlock },
		"full":        func(fs *stuckFS) func() { fs.full.Store(true); return func() { fs.full.Store(false) } },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			fs := &stuckFS{FS: vfs.OS()}
			s := newSite(t)
			s.fs, s.cfg.DiskTimeout = fs, 200*time.Millisecond
			q := vmtest.Start(t, vmtest.Config{})
			g := s.start(q)
			g.reach(StateProtected)
			unstick := gosync.OnceFunc(stick(fs))
			defer unstick()
			vmtest.IO(t, q.GuestURI("disk0"), "write -P 5 1M 64k")
			if err := g.Pause(ctx); err != nil {
				t.Fatal(err)
			}
			if st := g.Status(); !strings.Contains(st.Reason, "disk") || len(mirrors(q)) > 0 {
				t.Fatalf("taps %v, %s: %s", mirrors(q), st.State, st.Reason)
			}
			vmtest.IO(t, q.GuestURI("disk0"), "write -P 6 2M 64k")
			unstick()
			g.until("the journal has caught up", func(st Status) bool { return st.State == StatePaused && !strings.Contains(st.Reason, "disk") })
			if err := g.Resume(ctx); err != nil {
				t.Fatal(err)
			}
			g.reach(StateProtected)
			g.equal(q)
			unstick = gosync.OnceFunc(stick(fs))
			defer unstick()
			vmtest.IO(t, q.GuestURI("disk0"), "write -P 7 3M 64k")
			for _, goal := range []func() error{func() error { return g.Pause(ctx) }, func() error { return g.Stop(ctx) }} {
				if err := goal(); err != nil || len(mirrors(q)) > 0 || !q.Alive() {
					t.Fatalf("taps %v, %v", mirrors(q), err)
				}
			}
			unstick()
			<-g.done
		})
	}
}

// A group that is not whole any more while the journal's disk hangs can be paused, too.
func TestBrokenOnAStuckDisk(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	fs := &stuckFS{FS: vfs.OS()}
	s := newSite(t)
	s.fs, s.cfg.DiskTimeout = fs, 200*time.Millisecond
	q := vmtest.Start(t, vmtest.Config{})
	g := s.start(q)
	g.reach(StateProtected)
	g.equal(q)
	fs.door.Lock()
	unstick := gosync.OnceFunc(fs.door.Unlock)
	defer unstick()
	if _, err := s.link.Void(ctx, g.spec.ID.String()); err != nil {
		t.Fatal(err)
	}
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 5 1M 64k")
	eventually(t, "the cut is being noted", func() bool { return fs.waiting.Load() > 0 })
	g.reach(StateDegraded) // and that is said at once
	if err := g.Pause(ctx); err != nil || len(mirrors(q)) > 0 {
		t.Fatalf("taps %v, %v", mirrors(q), err)
	}
	unstick()
	if err := g.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	g.reach(StateProtected)
	g.equal(q)
}
