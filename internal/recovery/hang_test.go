package recovery

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
	"github.com/rephub/rephub/nbd"
)

// stuckGroup is a group on a disk that hangs: reads of its views heed no context.
type stuckGroup struct {
	*memGroup
	entered, open chan struct{}
}

type stuckView struct {
	View
	g *stuckGroup
}

func (g *stuckGroup) View(v journal.VolumeID, at journal.Seq) (View, error) {
	view, err := g.memGroup.View(v, at)
	return stuckView{view, g}, err
}

func (v stuckView) ReadAtContext(_ context.Context, p []byte, off int64) (int, error) {
	v.g.entered <- struct{}{}
	<-v.g.open
	return v.View.ReadAtContext(context.Background(), p, off)
}

// A forced unmount ends though the disk hangs; the mount stays whole, others are not held up, and a later one succeeds.
func TestForcedUnmountOfAHangingDisk(t *testing.T) {
	for _, writable := range []bool{false, true} {
		g := &stuckGroup{memGroup: newMemGroup(t, mountSize, 5), entered: make(chan struct{}, 1), open: make(chan struct{})}
		sound := newMemGroup(t, mountSize, 5)
		h := startHub(t, shortDir(t), nil)
		h.cfg.ForceGrace = 20 * time.Millisecond
		m, other := h.mount(g, 5, writable), h.mount(sound, 5, writable)
		c := dial(t, m.Exports[0].URI)
		read := make(chan error, 1)
		go func() { read <- c.ReadAt(t.Context(), make([]byte, 512), 0) }()
		<-g.entered
		for range 2 {
			var busy *BusyError
			if err := h.Unmount(context.Background(), m.ID, true); !errors.As(err, &busy) || !busy.Cut || busy.Connections != 1 {
				t.Fatalf("forced unmount: %v", err)
			}
		}
		if err := <-read; err == nil {
			t.Error("the client was not cut off")
		}
		if got, err := h.Get(m.ID); err != nil || got.Err != "" || g.pins[5] != 1 || g.opened != 2 {
			t.Errorf("mount after it: %+v, %v, %d pins, %d views", got, err, g.pins[5], g.opened)
		}
		if err := h.Unmount(context.Background(), other.ID, true); err != nil {
			t.Errorf("unmount of another: %v", err)
		}
		close(g.open)
		h.cfg.ForceGrace = time.Minute
		if err := h.Unmount(context.Background(), m.ID, true); err != nil {
			t.Error(err)
		}
		g.idle()
		sound.idle()
	}
}

// Close leaves open what a hanging request uses.
func TestCloseOfAHangingDisk(t *testing.T) {
	g := &stuckGroup{memGroup: newMemGroup(t, mountSize, 5), entered: make(chan struct{}, 1), open: make(chan struct{})}
	m, err := New(Config{Dir: filepath.Join(t.TempDir(), "mounts"), ForceGrace: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	b := openVolume(t, m, g)
	read := make(chan error, 1)
	go func() { read <- b.ReadAt(context.Background(), make([]byte, 512), 0) }()
	<-g.entered
	var busy *BusyError
	if err := m.Close(); !errors.As(err, &busy) || g.opened != 2 {
		t.Fatalf("close: %v, %d views open", err, g.opened)
	}
	close(g.open)
	if err := <-read; err != nil {
		t.Error(err)
	}
	b.Close()
	for _, mt := range m.sorted() {
		if err := mt.shut(); err != nil {
			t.Error(err)
		}
	}
	g.idle()
}

// openVolume makes a writable mount at 5 and connects to its first volume.
func openVolume(t *testing.T, m *Mounts, g Group) nbd.Backend {
	t.Helper()
	mt, err := m.Mount(t.Context(), g, Point{Seq: 5}, true)
	if err != nil {
		t.Fatal(err)
	}
	conn, peer := net.Pipe()
	t.Cleanup(func() { conn.Close(); peer.Close() })
	b, _, err := m.Exports().Open(t.Context(), exportName(mt.ID, mt.Volumes[0].Name), nbd.ConnInfo{Conn: conn})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// shrinkingFS tells what the test wants of the free space.
type shrinkingFS struct {
	vfs.FS
	total int64
	free  atomic.Int64
}

func (f *shrinkingFS) StatFS(string) (vfs.Space, error) {
	return vfs.Space{Total: f.total, Free: f.free.Load()}, nil
}

// Without a setting, new blocks are refused before the disk is full, and after the journal has stopped. What is in the layer
// can be written on.
func TestDefaultReserve(t *testing.T) {
	for _, test := range []struct{ total, reserve, journal int64 }{
		{4000 << 20, 100 << 20, 200 << 20},
		{1 << 40, 512 << 20, 1 << 30},
	} {
		fs := &shrinkingFS{FS: vfs.OS(), total: test.total}
		g := newMemGroup(t, 16<<20, 5)
		m, err := New(Config{Dir: filepath.Join(t.TempDir(), "mounts"), FS: fs})
		if err != nil {
			t.Fatal(err)
		}
		b := openVolume(t, m, g)
		write := func(off int64) error { return b.WriteAt(t.Context(), make([]byte, spaceStep), off, 0) }
		fs.free.Store(test.journal - 1) // the journal has stopped
		if err := write(0); err != nil {
			t.Errorf("write with %d bytes free: %v", test.journal-1, err)
		}
		fs.free.Store(test.reserve + spaceStep - 1)
		if err := write(spaceStep); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("write into the reserve of %d bytes: %v", test.reserve, err)
		}
		if err := write(0); err != nil {
			t.Errorf("write to what is in the layer: %v", err)
		}
		b.Close()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		g.idle()
	}
}
