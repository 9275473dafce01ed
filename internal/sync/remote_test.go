package sync

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vm/vmtest"
	"github.com/rephub/rephub/nbd"
)

// fileBase is a base image as a plain sparse file.
type fileBase struct{ vfs.File }

func (f fileBase) Zero(off, n int64) error { return f.PunchHole(off, n) }

func newFileBase(t testing.TB, size int64) fileBase {
	t.Helper()
	f, err := vfs.OS().OpenFile(filepath.Join(t.TempDir(), "base"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return fileBase{f}
}

func dialPool(t testing.TB, uri string, contexts ...string) *nbd.Pool {
	t.Helper()
	p, err := nbd.DialPool(t.Context(), uri, 4, nbd.DialOptions{Contexts: append(contexts, nbd.ContextAllocation)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func whole(t testing.TB, d block.Device) []byte {
	t.Helper()
	p := make([]byte, d.Size())
	if _, err := d.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

// deviceOf is a file as a replica's device.
type deviceOf struct {
	vfs.File
	size int64
}

func (d deviceOf) Size() int64 { return d.size }

// A QEMU's volume is synced through its NBD server, then written by the guest;
// the dirty bitmaps of two periods name what to sync, and their union suffices.
func TestQEMUFullThenBitmaps(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{})
	guest := dialPool(t, q.GuestURI("disk0"))
	size := guest.Info().Size
	write := func(off, n int64, v byte) {
		t.Helper()
		if err := guest.WriteAt(t.Context(), bytes.Repeat([]byte{v}, int(n)), off, 0); err != nil {
			t.Fatal(err)
		}
	}
	write(1<<20, 3<<20, 1)
	write(40<<20+512, 512, 2)
	q.Must("block-dirty-bitmap-add", map[string]any{"node": "disk0", "name": "b1"}, nil)
	base := newFileBase(t, size)
	if err := Full(t.Context(), NewSource(guest), base, FullOptions{Options: Options{Volume: "vm/disk0"}}); err != nil {
		t.Fatal(err)
	}
	at, err := base.NextData(0)
	if err != nil || at != 1<<20 {
		t.Errorf("first data at %d (err %v)", at, err)
	}

	write(2<<20, 100, 3)
	q.Must("transaction", map[string]any{"actions": []any{
		map[string]any{"type": "block-dirty-bitmap-add", "data": map[string]any{"node": "disk0", "name": "b2"}},
		map[string]any{"type": "block-dirty-bitmap-disable", "data": map[string]any{"node": "disk0", "name": "b1"}},
	}}, nil)
	write(50<<20, 9<<20, 4)
	if err := guest.Zero(t.Context(), 3<<20, 512<<10, 0); err != nil {
		t.Fatal(err)
	}
	q.Must("block-dirty-bitmap-disable", map[string]any{"node": "disk0", "name": "b2"}, nil)
	q.Must("block-export-add", map[string]any{"type": "nbd", "id": "reader", "node-name": "disk0", "name": "reader",
		"bitmaps": []string{"b1", "b2"}}, nil)
	reader := dialPool(t, "nbd+unix:///reader?socket="+q.NBDServer[len("unix:"):], BitmapContext("b1"), BitmapContext("b2"))

	total, err := CountRanges(DirtyRanges(t.Context(), reader, "b1", "b2"))
	if err != nil || total < 9<<20+512<<10+100 || total > 12<<20 {
		t.Fatalf("%d dirty bytes, %v", total, err)
	}
	current := newMemory(size)
	if _, err := base.ReadAt(current.data, 0); err != nil {
		t.Fatal(err)
	}
	s := newStream(t, current)
	if err := Ranges(t.Context(), NewSource(reader), NewCurrent(device{current}), DirtyRanges(t.Context(), reader, "b1", "b2"), s, RangesOptions{Total: total}); err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(q.Image("disk0"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(image, current.data) {
		t.Error("replica differs from the volume")
	}
	var committed int64
	for _, r := range s.commits {
		committed += r.Len
	}
	if want := int64(9<<20 + 512<<10 + Block); committed != want || s.zeroes != 512<<10 {
		t.Errorf("%d bytes committed, %d zeroes; expected %d, %d", committed, s.zeroes, want, 512<<10)
	}
	if err := Ranges(t.Context(), NewSource(reader), NewCurrent(device{current}), DirtyRanges(t.Context(), reader, "nosuch"), s, RangesOptions{}); !errors.Is(err, nbd.ErrNotOffered) {
		t.Errorf("missing bitmap: %v", err)
	}
}

// A real server that freezes costs the context's time only.
func TestFrozenQEMU(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{})
	guest := dialPool(t, q.GuestURI("disk0"))
	if err := guest.WriteAt(t.Context(), bytes.Repeat([]byte{1}, 8<<20), 0, 0); err != nil {
		t.Fatal(err)
	}
	base := newFileBase(t, guest.Info().Size)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	q.Freeze()
	defer q.Thaw()
	if err := Full(ctx, NewSource(guest), base, FullOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

// A server that dies ends the sync with an error that names the place.
func TestKilledServer(t *testing.T) {
	k := vmtest.StartNBDKit(t, "pattern", "64M")
	pool := dialPool(t, k.URI())
	base := newFileBase(t, pool.Info().Size)
	err := Full(t.Context(), NewSource(pool), base, FullOptions{Options: Options{Volume: "vm/d", Requests: 1, Progress: func(p Progress) { // one, so that the first piece is done
		if p.Done > 1<<20 {
			k.Kill()
		}
	}}})
	var e *Error
	if !errors.As(err, &e) || e.Volume != "vm/d" || e.Off == 0 {
		t.Fatalf("got %v", err)
	}
}

// nbdkit's errors reach the caller with their offset; servers without block
// status are read whole, and their zeroes become holes.
func TestNBDKit(t *testing.T) {
	k := vmtest.StartNBDKit(t, "--filter=noextents", "data", "@1048576 1 2 3 @33554432", "size=64M")
	pool := dialPool(t, k.URI())
	base := newFileBase(t, pool.Info().Size)
	if err := Full(t.Context(), NewSource(pool), base, FullOptions{}); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 64<<20)
	copy(want[1<<20:], []byte{1, 2, 3})
	if !bytes.Equal(whole(t, deviceOf{base.File, 64 << 20}), want) {
		t.Error("base differs")
	}
	if next, err := base.NextHole(1 << 20); err != nil || next > 1<<20+64<<10 {
		t.Errorf("data up to %d (err %v)", next, err)
	}
	bad := vmtest.StartNBDKit(t, "--filter=error", "pattern", "64M", "error-pread=EIO", "error-pread-rate=100%")
	err := Full(t.Context(), NewSource(dialPool(t, bad.URI())), base, FullOptions{})
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, nbd.EIO) || e.Op != "read source" {
		t.Errorf("got %v", err)
	}
}
