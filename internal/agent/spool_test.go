package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/relay"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
)

var testGroup = journal.GroupID{0x6f, 1}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// begin makes a journal that is attached, as one that a hub and a spool share.
func begin(t *testing.T, log interface {
	AppendControl(journal.Epoch, ...journal.Control) error
}) {
	t.Helper()
	must(t, log.AppendControl(0, journal.VolumeAdded{Volume: 1, Name: "vm/disk", Size: 1 << 30}))
	must(t, log.AppendControl(1, journal.Attach{Reason: "test"}))
}

// writes is a batch of n writes of size bytes that follow last.
func writes(last journal.Seq, n, size int) journal.Batch {
	var region []byte
	for i := range n {
		h := journal.Header{Op: journal.OpWrite, Seq: last + journal.Seq(i) + 1, Volume: 1, Off: int64(i * size), Len: uint32(size), PayloadLen: uint32(size), Time: time.Now().UnixNano()}
		p := make([]byte, h.Size())
		h.Encode(p)
		journal.CommitEntry(p)
		region = append(region, p...)
	}
	return journal.Batch{Kind: journal.KindWrites, Epoch: 1, First: last + 1, Regions: [][]byte{region}}
}

func testSpool(t *testing.T, b *budget, id byte, end journal.Start) *spool {
	t.Helper()
	return testSpoolOn(t, vfs.OS(), b, id, end)
}

func testSpoolOn(t *testing.T, fs vfs.FS, b *budget, id byte, end journal.Start) *spool {
	t.Helper()
	s, err := createSpool(fs, filepath.Join(t.TempDir(), "spool"), journal.GroupID{0x6f, id}, end, b, slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(func() { _ = s.close() })
	begin(t, s)
	return s
}

// The budget is one for all spools; what is over it is refused with a hint, and
// records that say how things stand are not.
func TestSpoolIsBounded(t *testing.T) {
	b := &budget{limit: minSpool}
	one, two := testSpool(t, b, 1, journal.Start{}), testSpool(t, b, 2, journal.Start{})
	fill := func(s *spool) (n int) {
		for {
			err := s.Append(writes(s.Appended(), 16, 64<<10))
			var full *SpoolFullError
			if errors.As(err, &full) {
				if full.Hint() == "" {
					t.Error("no hint")
				}
				return n
			}
			must(t, err)
			n++
		}
	}
	if n := fill(one); n < 20 {
		t.Fatalf("the spool took only %d MiB", n)
	}
	if n := fill(two); n > 1 {
		t.Errorf("the second spool took %d MiB more", n)
	}
	if used := b.used.Load(); used > b.limit+1<<20 {
		t.Errorf("%d bytes are used", used)
	}
	must(t, two.AppendControl(1, journal.Fence{Seq: two.Appended()}))
	if err := two.AppendSyncs(1, []journal.SyncWrite{{Volume: 1, Len: 1 << 20, Data: make([]byte, 1<<20)}}); err == nil {
		t.Error("a sync was taken by a full spool")
	}
	space := b.space(vfs.Space{Total: 1 << 40, Free: 1 << 39})
	if space.Free > 2<<20 || space.Total != b.limit {
		t.Errorf("the space left is %+v", space)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*roomEvery)
	defer cancel()
	if err := two.syncRoom(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a sync has room in a full spool: %v", err)
	}
	must(t, one.close())
	must(t, two.syncRoom(t.Context()))
}

// What is durable is what the hub says, whatever the spool's own disk has.
func TestDurableIsWhatTheHubHas(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	must(t, os.MkdirAll(dir, 0o700))
	log, err := journal.Create(vfs.OS(), dir, testGroup, journal.Options{})
	must(t, err)
	defer log.Close()
	s := testSpool(t, &budget{limit: minSpool}, 1, log.End())
	must(t, s.Append(writes(s.Appended(), 4, 512)))
	_, err = s.Sync()
	must(t, err)
	if s.Durable() != 0 || s.DurableTimeline().Epoch != 0 {
		t.Fatalf("without a hub, durable are seq %d, %+v", s.Durable(), s.DurableTimeline())
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Settled(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("settled without a hub: %v", err)
	}
	ctx, stop := ship(t, s, log)
	defer stop()
	must(t, s.AppendControl(1, journal.SyncBegin{Volume: 1}))
	must(t, s.AppendControl(1, journal.SyncEnd{Volume: 1}))
	must(t, s.AppendControl(1, journal.Fence{Seq: s.Appended()}))
	must(t, s.Settled(ctx))
	tl := s.DurableTimeline()
	newest, ok := tl.Newest()
	if s.Durable() != s.Appended() || !tl.Open || tl.Epoch != 1 || !ok || newest != s.Appended() || tl.LastFence.Seq != newest {
		t.Errorf("the hub has all; durable are seq %d of %d, %+v", s.Durable(), s.Appended(), tl)
	}
	if v, ok := tl.Volume(1); !ok || v.Size() != 1<<30 {
		t.Errorf("the volume is %+v", v)
	}
}

// ship has a hub take the spool into log, until stop, which waits.
func ship(t *testing.T, s *spool, log *journal.Log) (ctx context.Context, stop func()) {
	t.Helper()
	a, h := pair(t, log)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = h.Run(ctx) })
	wg.Go(func() { _ = a.Run(ctx) })
	wg.Go(func() {
		err := s.sender.Run(ctx, a)
		if ctx.Err() == nil {
			t.Errorf("the spool is not shipped any more: %v", err)
			cancel()
		}
	})
	return ctx, func() { cancel(); wg.Wait() }
}

// A spool that was begun with more room has a last segment that is larger than all
// the room there is now. It goes on once the hub has it.
func TestSpoolOfALargerOne(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	must(t, os.MkdirAll(dir, 0o700))
	log, err := journal.Create(vfs.OS(), dir, journal.GroupID{0x6f, 1}, journal.Options{})
	must(t, err)
	defer log.Close()
	s := testSpool(t, &budget{limit: defaultSpool}, 1, log.End())
	for s.Bytes() < minSpool+8<<20 {
		must(t, s.Append(writes(s.Appended(), 16, 64<<10)))
	}
	must(t, s.close())
	s, err = openSpool(vfs.OS(), s.dir, s.Group(), &budget{limit: minSpool}, slog.New(slog.DiscardHandler))
	must(t, err)
	defer s.close()
	if err := s.Append(writes(s.Appended(), 1, 512)); err == nil {
		t.Fatal("it has room")
	}
	ctx, stop := ship(t, s, log)
	defer stop()
	for range 40 {
		must(t, s.Settled(ctx))
		must(t, s.Append(writes(s.Appended(), 16, 64<<10)))
	}
}

// slowDisk syncs nothing while the lock is held.
type slowDisk struct {
	vfs.FS
	sync sync.Mutex
}

type slowFile struct {
	vfs.File
	d *slowDisk
}

func (d *slowDisk) OpenFile(name string, flag int, perm os.FileMode) (vfs.File, error) {
	f, err := d.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return slowFile{f, d}, nil
}

func (f slowFile) Sync() error {
	f.d.sync.Lock()
	defer f.d.sync.Unlock()
	return f.File.Sync()
}

// What the hub has makes room, also when its last ack came while the spool's own
// disk had not synced it yet, and when it is another spool that needs the room.
func TestWhatTheHubHasMakesRoom(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	must(t, os.MkdirAll(dir, 0o700))
	log, err := journal.Create(vfs.OS(), dir, journal.GroupID{0x6f, 1}, journal.Options{})
	must(t, err)
	defer log.Close()
	b := &budget{limit: minSpool}
	slow := &slowDisk{FS: vfs.OS()}
	full, other := testSpoolOn(t, slow, b, 1, log.End()), testSpool(t, b, 2, journal.Start{})
	slow.sync.Lock()
	for err == nil {
		err = full.Append(writes(full.Appended(), 16, 64<<10))
	}
	ctx, stop := ship(t, full, log)
	defer stop()
	must(t, full.Settled(ctx))
	slow.sync.Unlock()
	_, err = full.Sync()
	must(t, err)
	soon, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for range 4 { // as one who drains a ring does
		for err = other.Append(writes(other.Appended(), 16, 64<<10)); err != nil && sleep(soon, roomEvery); {
			err = other.Append(writes(other.Appended(), 16, 64<<10))
		}
		must(t, err)
	}
	must(t, other.syncRoom(soon))
	if space := b.space(vfs.Space{Total: 1 << 40, Free: 1 << 39}); space.Free < minSpool/2 {
		t.Errorf("%d bytes are left", space.Free)
	}
}

// pair is a connection between an agent and a hub that takes everything into log.
func pair(t *testing.T, log *journal.Log) (agent, hub *relay.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	far, err := l.Accept()
	must(t, err)
	r, err := relay.NewReceiver(relay.ReceiverConfig{Open: func(context.Context, string, relay.Hello) (relay.Journal, error) { return log, nil }})
	must(t, err)
	agent, err = relay.New(near, relay.Config{})
	must(t, err)
	hub, err = relay.New(far, relay.Config{Receiver: r})
	must(t, err)
	return agent, hub
}

// A spool that was being made is made anew; one that is there goes on.
func TestSpoolIsWholeOrNotThere(t *testing.T) {
	fs, dir, b := vfs.OS(), filepath.Join(t.TempDir(), "spool"), &budget{limit: minSpool}
	logger := slog.New(slog.DiscardHandler)
	if _, err := openSpool(fs, dir, testGroup, b, logger); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("open what was never made: %v", err)
	}
	must(t, os.MkdirAll(dir+".new", 0o700))
	must(t, os.WriteFile(filepath.Join(dir+".new", "000000000001.rhj"), []byte("half"), 0o600))
	s, err := createSpool(fs, dir, testGroup, journal.Start{}, b, logger)
	must(t, err)
	begin(t, s)
	must(t, s.Append(writes(s.Appended(), 3, 512)))
	last, serial := s.Appended(), s.Serial()
	must(t, s.close())
	if used := b.used.Load(); used != 0 {
		t.Errorf("%d bytes are used by a closed spool", used)
	}
	if _, err := openSpool(fs, dir, journal.GroupID{1}, b, logger); err == nil {
		t.Error("another group's spool was opened")
	}
	s, err = openSpool(fs, dir, testGroup, b, logger)
	must(t, err)
	if s.Appended() != last || s.Serial() != serial {
		t.Errorf("it ends at seq %d, batch %d; it was closed at %d, %d", s.Appended(), s.Serial(), last, serial)
	}
	must(t, s.close())
}
