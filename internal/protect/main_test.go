package protect

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	gosync "sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/keeper"
	"github.com/rephub/rephub/internal/sync"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/qemu"
	"github.com/rephub/rephub/internal/vm/vmtest"
	"github.com/rephub/rephub/journal"
	"github.com/rephub/rephub/journal/index"
)

// keeperEnv makes the test binary a keeper, so that there is a real one to kill.
const keeperEnv = "REPHUB_TEST_KEEPER"

func TestMain(m *testing.M) {
	if os.Getenv(keeperEnv) != "" {
		os.Exit(keeper.Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// patience bounds everything that a test waits for.
const patience = 60 * time.Second

// site is a hub's part of a group: a folder, a keeper, epochs. It outlives the
// Group, as the data directory outlives a hub.
type site struct {
	t      *testing.T
	dir    string // of the group
	keeper keeper.ClientConfig
	cfg    Config
	fs     vfs.FS            // of the journal, if not the system's
	noBase bool              // replicas cannot take an initial sync
	wrap   func(vm.VM) vm.VM // what is between the group and its VMs, if anything

	mu    gosync.Mutex
	epoch journal.Epoch
	link  *keeper.Client
	pid   int
}

func newSite(t *testing.T, keeperFlags ...string) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "protect")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: filepath.Join(dir, "group"), keeper: keeper.ClientConfig{
		Dir: filepath.Join(dir, "keeper"), Exe: os.Args[0],
		Args: append([]string{"keeper", "--grace", "300ms"}, keeperFlags...), Env: []string{keeperEnv + "=1"},
	}}
	s.cfg = Config{ReaderDir: filepath.Join(dir, "readers"), Retry: 200 * time.Millisecond, Reserve: 1 << 20}
	t.Cleanup(func() {
		if s.link != nil {
			s.link.Close()
		}
		os.RemoveAll(dir)
	})
	return s
}

// connect is Deps.Keeper.
func (s *site) connect(ctx context.Context) (*keeper.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link != nil {
		select {
		case <-s.link.Done():
		default:
			return s.link, nil
		}
	}
	k, err := keeper.Ensure(ctx, s.keeper)
	if err != nil {
		return nil, err
	}
	s.link, s.pid = k, k.PID()
	return k, nil
}

// open is Deps.OpenVM.
func (s *site) open(ctx context.Context, ref VMRef) (vm.VM, error) {
	v, err := qemu.Open(ctx, ref.QMP, qemu.Config{})
	if err != nil || s.wrap == nil {
		return v, err
	}
	return s.wrap(v), nil
}

// grant is Deps.GrantEpoch.
func (s *site) grant(_ context.Context, _ journal.GroupID, after journal.Epoch) (journal.Epoch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch = max(s.epoch, after) + 1
	return s.epoch, nil
}

// running is a Group with its replica, as one run of a hub has them.
type running struct {
	*Group
	t       *testing.T
	replica *testReplica
	stop    context.CancelFunc
	done    chan struct{}
}

// start brings the group to life over the VMs given.
func (s *site) start(vms ...*vmtest.QEMU) *running {
	s.t.Helper()
	spec := Spec{ID: journal.GroupID{1, 2, 3, 4}, Name: "g"}
	for i, q := range vms {
		ref := VMRef{Name: "vm" + string(rune('a'+i)), QMP: q.QMP, NBDServer: q.NBDServer}
		spec.VMs = append(spec.VMs, ref)
		for _, node := range q.Nodes() {
			spec.Volumes = append(spec.Volumes, Volume{
				ID: journal.VolumeID(len(spec.Volumes) + 1), UUID: node, VM: ref.Name, Disk: node, Size: imageSize(s.t, q, node),
			})
		}
	}
	replica := openReplica(s.t, cmp.Or(s.fs, vfs.OS()), s.dir, spec)
	replica.noBase = s.noBase
	logger := slog.New(slog.NewTextHandler(testWriter{s.t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	g, err := New(Deps{
		Replica: replica, FS: vfs.OS(), Keeper: s.connect, GrantEpoch: s.grant, Logger: logger,
		OpenVM: s.open,
	}, spec, s.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &running{Group: g, t: s.t, replica: replica, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		if err := g.Run(ctx); err != nil {
			s.t.Error(err)
		}
	}()
	s.t.Cleanup(r.end)
	return r
}

// end stops this run in order, as SIGTERM to the hub would.
func (r *running) end() {
	r.stop()
	<-r.done
	r.replica.close()
}

// reach waits for a state and says what was instead.
func (r *running) reach(states ...State) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	if err := r.Wait(ctx, states...); err != nil {
		s := r.Status()
		r.t.Fatalf("group is not %v but %s: %s", states, s.State, s.Reason)
	}
}

// until waits for a condition on the status.
func (r *running) until(what string, ok func(Status) bool) {
	r.t.Helper()
	eventually(r.t, what, func() bool { return ok(r.Status()) })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func imageSize(t *testing.T, q *vmtest.QEMU, node string) int64 {
	t.Helper()
	info, err := os.Stat(q.Image(node))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Logf("%s", p)
	}
	return len(p), nil
}

// testReplica is the simplest replica: a base file per volume and the journal's index.
type testReplica struct {
	t    *testing.T
	dir  string
	log  *journal.Log
	base map[journal.VolumeID]*os.File
	done map[journal.VolumeID]int64
	once gosync.Once

	noBase bool
	tries  atomic.Int64 // of an initial sync
}

func openReplica(t *testing.T, fs vfs.FS, dir string, spec Spec) *testReplica {
	t.Helper()
	r := &testReplica{t: t, dir: dir, base: map[journal.VolumeID]*os.File{}, done: map[journal.VolumeID]int64{}}
	fresh := false
	if _, err := os.Stat(filepath.Join(dir, "journal")); err != nil {
		fresh = true
	}
	if err := os.MkdirAll(filepath.Join(dir, "journal"), 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if fresh {
		r.log, err = journal.Create(fs, filepath.Join(dir, "journal"), spec.ID, journal.Options{})
	} else {
		r.log, err = journal.Open(fs, filepath.Join(dir, "journal"), journal.Options{})
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range spec.Volumes {
		f, err := os.OpenFile(filepath.Join(dir, v.ID.String()+".raw"), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		r.base[v.ID] = f
		if fresh {
			if err := f.Truncate(v.Size); err != nil {
				t.Fatal(err)
			}
		}
	}
	if p, err := os.ReadFile(filepath.Join(dir, "progress")); err == nil {
		if err := json.Unmarshal(p, &r.done); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *testReplica) close() {
	r.once.Do(func() {
		if err := r.log.Close(); err != nil {
			r.t.Error(err)
		}
		for _, f := range r.base {
			f.Close()
		}
	})
}

func (r *testReplica) Journal() Journal                                { return LocalJournal{r.log} }
func (r *testReplica) SyncRoom(context.Context) error                  { return nil }
func (r *testReplica) SyncProgress(id journal.VolumeID) int64          { return r.done[id] }
func (r *testReplica) StatFS() (vfs.Space, error)                      { return vfs.OS().StatFS(r.dir) }
func (r *testReplica) Dir() string                                     { return r.dir }
func (r *testReplica) ResizeVolume(journal.VolumeID, int64) error      { return nil }
func (r *testReplica) at(id journal.VolumeID, at journal.Seq) testView { return testView{r, id, at} }

func (r *testReplica) Current(_ context.Context, id journal.VolumeID) (sync.Current, error) {
	return sync.NewCurrent(r.at(id, ^journal.Seq(0))), nil
}

func (r *testReplica) Base(_ context.Context, id journal.VolumeID) (BaseImage, error) {
	r.tries.Add(1)
	if r.noBase {
		return nil, errors.New("the base image is not to be had")
	}
	return testBase{r.base[id]}, nil
}

func (r *testReplica) SetSyncProgress(id journal.VolumeID, n int64) error {
	r.done[id] = n
	p, err := json.Marshal(r.done)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.dir, "progress"), p, 0o600)
}

type testBase struct{ *os.File }

func (b testBase) Zero(off, n int64) error {
	_, err := b.WriteAt(make([]byte, n), off)
	return err
}

// testView reads a volume at a seq the plain way.
type testView struct {
	r  *testReplica
	id journal.VolumeID
	at journal.Seq
}

func (v testView) Size() int64 {
	info, err := v.r.base[v.id].Stat()
	if err != nil {
		v.r.t.Fatal(err)
	}
	return info.Size()
}

func (v testView) ReadAt(p []byte, off int64) (int, error) {
	if _, err := v.r.base[v.id].ReadAt(p, off); err != nil {
		return 0, err
	}
	pieces, err := v.r.log.Index().Lookup(uint32(v.id), off, int64(len(p)), uint64(v.at), 0, nil)
	if err != nil {
		return 0, err
	}
	for _, piece := range pieces {
		part := p[piece.Off-off : piece.Off-off+piece.Len]
		switch piece.Kind {
		case index.Zero:
			clear(part)
		case index.Data:
			if err := v.r.log.ReadPayload(part, piece.Segment, piece.Pos); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

// Close implements BaseImage.
func (testBase) Close() error { return nil }
