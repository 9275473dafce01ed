package recovery

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rephub/rephub/journal"
	"github.com/rephub/rephub/nbd"
)

const mountSize = 4 << 20

// hub is what a hub does with mounts: a manager and an NBD server.
type hub struct {
	*Mounts
	t      testing.TB
	server *nbd.Server
	served chan struct{}
}

func startHub(t testing.TB, dir string, records Records) *hub {
	t.Helper()
	socket := filepath.Join(dir, "nbd sock")
	os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(Config{
		Dir: filepath.Join(dir, "mounts"), Endpoints: []string{"unix:" + socket, tcp.Addr().String()},
		Records: records, UnmountGrace: 50 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := nbd.NewServer(m.Exports(), nbd.ServerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	h := &hub{Mounts: m, t: t, server: srv, served: make(chan struct{})}
	var wg sync.WaitGroup
	for _, l := range []net.Listener{l, tcp} {
		wg.Go(func() { srv.Serve(context.Background(), l) })
	}
	go func() { wg.Wait(); close(h.served) }()
	t.Cleanup(h.stop)
	return h
}

// stop ends the hub without a flush.
func (h *hub) stop() {
	h.server.Close()
	<-h.served
	if err := h.Mounts.Close(); err != nil {
		h.t.Error(err)
	}
}

func (h *hub) mount(g Group, seq journal.Seq, writable bool) Mount {
	h.t.Helper()
	m, err := h.Mount(h.t.Context(), g, Point{Seq: seq, Time: time.Unix(int64(seq), 0).UTC()}, writable)
	if err != nil {
		h.t.Fatal(err)
	}
	return m
}

// tool runs a real program.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// volumeBytes reads a whole export with nbdcopy.
func volumeBytes(t testing.TB, uri string) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "copy")
	tool(t, "nbdcopy", uri, name)
	p, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func dial(t testing.TB, uri string) *nbd.Client {
	t.Helper()
	c, err := nbd.Dial(t.Context(), uri, nbd.DialOptions{Contexts: []string{nbd.ContextAllocation}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Mounts of different points, and of one point twice, show what they should, at
// every URI, to real clients; a write to one changes no other.
func TestMountsAreIndependent(t *testing.T) {
	g := newMemGroup(t, mountSize, 5, 9)
	h := startHub(t, shortDir(t), nil)
	mounts := []Mount{h.mount(g, 5, false), h.mount(g, 9, false), h.mount(g, 9, true), h.mount(g, 9, true)}
	for _, m := range mounts {
		if len(m.Exports) != 2 || len(m.Exports[0].URIs) != 2 {
			t.Fatalf("exports %+v", m.Exports)
		}
		for _, e := range m.Exports {
			for _, uri := range e.URIs {
				if !bytes.Equal(volumeBytes(t, uri), g.points[m.Seq][e.ID]) {
					t.Errorf("%s is not seq %s", uri, m.Seq)
				}
			}
		}
	}
	tool(t, "qemu-io", "-f", "raw", "-c", "write -P 0x5a 1000 70000", "-c", "write -z 131072 8192", "-c", "discard 200704 4096", "-c", "flush", mounts[2].Exports[0].URI)
	want := bytes.Clone(g.points[9][1])
	copy(want[1000:], bytes.Repeat([]byte{0x5a}, 70000))
	clear(want[131072 : 131072+8192])
	clear(want[200704 : 200704+4096])
	if !bytes.Equal(volumeBytes(t, mounts[2].Exports[0].URI), want) {
		t.Error("writable mount differs from the model")
	}
	if !bytes.Equal(volumeBytes(t, mounts[3].Exports[0].URI), g.points[9][1]) {
		t.Error("a write changed another mount of the point")
	}
	if err := dial(t, mounts[1].Exports[0].URI).WriteAt(t.Context(), make([]byte, 512), 0, 0); err == nil {
		t.Error("a read-only mount was written")
	}
	if got := tool(t, "nbdinfo", "--list", strings.Replace(mounts[0].Exports[0].URI, "/"+mounts[0].ID+"/db%2Fdisk0", "/", 1)); strings.Count(got, "/db/disk0\":") != 4 {
		t.Errorf("list of exports:\n%s", got)
	}
}

// A VM's image tools and fio's verify work on a writable mount.
func TestFioVerifiesWritableMount(t *testing.T) {
	g := newMemGroup(t, mountSize, 5)
	h := startHub(t, shortDir(t), nil)
	m := h.mount(g, 5, true)
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "fio", "--name=w", "--ioengine=nbd", "--uri="+m.Exports[0].URIs[1], "--rw=randwrite",
		"--bsrange=512-64k", "--bs_unaligned=0", "--blockalign=512", "--iodepth=8", "--size=3m", "--verify=crc32c", "--verify_fatal=1", "--fsync=16", "--randrepeat=1")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("fio: %v\n%s", err, out)
	}
}

// The hub dies without a flush and comes back: same ids, same URIs, everything
// that was acknowledged is there, and the catalog's copies are in line.
func TestRestore(t *testing.T) {
	g := newMemGroup(t, mountSize, 5, 9)
	dir := shortDir(t)
	records := &memRecords{m: map[string]Record{"stale": {ID: "stale"}}, down: true}
	h := startHub(t, dir, records)
	rw, ro := h.mount(g, 9, true), h.mount(g, 5, false)
	if err := dial(t, rw.Exports[1].URI).WriteAt(t.Context(), bytes.Repeat([]byte{7}, 5000), mountSize-4488, 0); err != nil {
		t.Fatal(err)
	}
	h.stop()
	g.idle()
	if err := os.MkdirAll(filepath.Join(dir, "mounts", "halfmade"), 0o700); err != nil {
		t.Fatal(err)
	}
	records.down = false
	h = startHub(t, dir, records)
	if err := h.Restore(t.Context(), func(_ context.Context, r Record) (Group, error) {
		if r.Group != "shop" || r.GroupID != g.ID() {
			t.Errorf("record %+v", r)
		}
		return g, nil
	}); err != nil {
		t.Fatal(err)
	}
	list := h.List()
	if len(list) != 2 || list[0].Exports[1].URI != rw.Exports[1].URI || list[1].ID != ro.ID || list[0].Seq != 9 || !list[0].Writable || !list[0].Time.Equal(rw.Time) {
		t.Fatalf("restored %+v", list)
	}
	want := bytes.Clone(g.points[9][2])
	copy(want[mountSize-4488:], bytes.Repeat([]byte{7}, 5000))
	if !bytes.Equal(volumeBytes(t, list[0].Exports[1].URI), want) {
		t.Error("what was written is lost")
	}
	if list[0].Exports[1].ScratchBytes != 3*page {
		t.Errorf("scratch layer of %d bytes", list[0].Exports[1].ScratchBytes)
	}
	if _, err := os.Stat(filepath.Join(dir, "mounts", "halfmade")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the folder of a half-made mount was kept")
	}
	if len(records.m) != 2 || records.m[rw.ID].Seq != 9 {
		t.Errorf("catalog holds %+v", records.m)
	}
}

// A mount whose group or files are not there stays listed, refuses clients, and
// is served by a later Restore; a damaged one can still be unmounted.
func TestRestoreInPieces(t *testing.T) {
	g := newMemGroup(t, mountSize, 5)
	dir := shortDir(t)
	h := startHub(t, dir, nil)
	good, bad := h.mount(g, 5, true), h.mount(g, 5, false)
	h.stop()
	if err := os.WriteFile(filepath.Join(dir, "mounts", bad.ID, mountFile), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	h = startHub(t, dir, nil)
	away := errors.New("group is not open yet")
	if err := h.Restore(t.Context(), func(context.Context, Record) (Group, error) { return nil, away }); !errors.Is(err, away) || !errors.Is(err, ErrCorrupt) {
		t.Fatalf("restore: %v", err)
	}
	if m, err := h.Get(good.ID); err != nil || m.Err != away.Error() {
		t.Fatalf("%+v, %v", m, err)
	}
	if _, err := nbd.Dial(t.Context(), good.Exports[0].URI, nbd.DialOptions{}); err == nil {
		t.Fatal("a mount that is not restored was served")
	}
	if err := h.Restore(t.Context(), func(context.Context, Record) (Group, error) { return g, nil }); err != nil {
		t.Fatalf("second restore: %v", err)
	}
	dial(t, good.Exports[0].URI).Close()
	if err := h.Unmount(t.Context(), bad.ID, false); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Get(bad.ID); !errors.Is(err, ErrNotFound) {
		t.Fatalf("got %v", err)
	}
}

func TestUnmount(t *testing.T) {
	g := newMemGroup(t, mountSize, 5)
	dir := shortDir(t)
	records := &memRecords{m: map[string]Record{}}
	h := startHub(t, dir, records)
	m := h.mount(g, 5, true)
	c := dial(t, m.Exports[0].URI)
	var busy *BusyError
	if err := h.Unmount(t.Context(), m.ID, false); !errors.As(err, &busy) || busy.Connections != 1 {
		t.Fatalf("unmount while in use: %v", err)
	}
	if err := c.ReadAt(t.Context(), make([]byte, 512), 0); err != nil {
		t.Fatalf("a refused unmount broke the connection: %v", err)
	}
	if got, _ := h.Get(m.ID); got.Connections != 1 || got.Exports[0].Connections != 1 || got.Exports[1].Connections != 0 {
		t.Errorf("connections: %+v", got)
	}
	dial(t, m.Exports[1].URI).Close() // and a new one is let in again
	if err := h.Unmount(t.Context(), m.ID, true); err != nil {
		t.Fatal(err)
	}
	if err := c.ReadAt(t.Context(), make([]byte, 512), 0); err == nil {
		t.Error("the connection goes on after a forced unmount")
	}
	g.idle()
	if left, _ := os.ReadDir(filepath.Join(dir, "mounts")); len(left) != 0 || len(records.m) != 0 {
		t.Errorf("left: %v, %v", left, records.m)
	}
	if err := h.Unmount(t.Context(), m.ID, false); !errors.Is(err, ErrNotFound) {
		t.Errorf("second unmount: %v", err)
	}
}

// A client that is about to go does not make unmount fail.
func TestUnmountWaitsForGrace(t *testing.T) {
	g := newMemGroup(t, mountSize, 5)
	h := startHub(t, shortDir(t), nil)
	h.cfg.UnmountGrace = time.Minute
	m := h.mount(g, 5, false)
	c := dial(t, m.Exports[0].URI)
	done := make(chan error, 1)
	go func() { done <- h.Unmount(t.Context(), m.ID, false) }()
	mt, err := h.find(m.ID)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		mt.state.Lock()
		waiting := len(mt.state.waiters) > 0
		mt.state.Unlock()
		if waiting {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("unmount does not wait")
		}
	}
	c.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestMountErrorsLeaveNothing(t *testing.T) {
	g := newMemGroup(t, mountSize, 5)
	dir := shortDir(t)
	h := startHub(t, dir, nil)
	if _, err := h.Mount(t.Context(), g, Point{Seq: 6}, true); !errors.Is(err, journal.ErrNoSeq) {
		t.Errorf("unknown seq: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Mount(ctx, g, Point{Seq: 5}, true); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	g.idle()
	if left, _ := os.ReadDir(filepath.Join(dir, "mounts")); len(left) != 0 || len(h.List()) != 0 {
		t.Errorf("left: %v", left)
	}
	h.Close()
	if _, err := h.Mount(t.Context(), g, Point{Seq: 5}, true); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestURIs(t *testing.T) {
	for endpoint, want := range map[string]string{
		"unix:/run/re hub/n+1.sock": "nbd+unix:///id/VM%2FNODE?socket=/run/re%20hub/n%2B1.sock",
		"10.0.0.1:10809":            "nbd://10.0.0.1:10809/id/VM%2FNODE",
		"[::1]:10809":               "nbd://[::1]:10809/id/VM%2FNODE",
		"0.0.0.0:10809":             "nbd://localhost:10809/id/VM%2FNODE",
	} {
		got := exportURI(endpoint, "id", "VM/NODE")
		if got != want {
			t.Errorf("%s: %s, expected %s", endpoint, got, want)
		}
		if _, err := nbd.ParseURI(got); err != nil {
			t.Error(err)
		}
	}
}

// memRecords is a catalog in memory.
type memRecords struct {
	mu   sync.Mutex
	m    map[string]Record
	down bool
}

func (r *memRecords) change(f func()) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return errors.New("catalog is away")
	}
	f()
	return nil
}

func (r *memRecords) PutMount(_ context.Context, x Record) error {
	return r.change(func() { r.m[x.ID] = x })
}

func (r *memRecords) DeleteMount(_ context.Context, id string) error {
	return r.change(func() { delete(r.m, id) })
}

func (r *memRecords) Mounts(context.Context) (list []Record, err error) {
	err = r.change(func() {
		for _, x := range r.m {
			list = append(list, x)
		}
	})
	return list, err
}
