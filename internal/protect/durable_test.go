package protect

import (
	"os"
	gosync "sync"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// stuckFS makes nothing durable while its gate is held.
type stuckFS struct {
	vfs.FS
	gate gosync.RWMutex
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
