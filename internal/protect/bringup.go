package protect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/rephub/rephub/internal/sync"
	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/journal"
	"github.com/rephub/rephub/nbd"
)

// bringUp syncs what may differ, waits for the point that ends the sync, and
// then only keeps the dirty bitmaps young.
func (a *attachment) bringUp(ctx context.Context) error {
	for {
		err := a.syncAll(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil || broken(err) {
			return err
		}
		a.g.report(err)
		a.setSyncing("the sync is tried again: " + err.Error())
		if !sleep(ctx, a.g.cfg.Retry) {
			return nil
		}
	}
	return a.rotate(ctx)
}

// syncAll syncs every volume that the journal does not know to be equal.
func (a *attachment) syncAll(ctx context.Context) error {
	tl := a.g.log.Timeline()
	if len(tl.Syncing) > 0 {
		a.setSyncing("the volumes are being copied")
		// Once: what changed since is in the journal, and a bitmap for every try
		// would burden the VM.
		if !a.switched {
			if err := a.limitBitmaps(ctx); err != nil {
				return err
			}
			if err := a.switchBitmaps(ctx); err != nil {
				return err
			}
			a.switched = true
		}
		for _, m := range a.machines {
			for _, d := range m.disks {
				if !slices.Contains(tl.Syncing, d.ID) {
					continue
				}
				if err := a.syncDisk(ctx, m, d); err != nil {
					return err
				}
			}
		}
		a.setSyncing("")
	}
	return a.finish(ctx)
}

// looks is how often finish looks for its point while one is asked for.
const looks = 8

// finish waits until a point after the sync is durable; only then the bitmaps
// that the sync was made from are not needed any more.
func (a *attachment) finish(ctx context.Context) error {
	frozen := a.frozenNames()
	// A hub that goes on where another one stopped finds a point at once, and
	// bitmaps that hold what is still in the ring.
	last := a.link.ring.State().Last
	tick := time.NewTicker(a.g.cfg.SyncEvery / looks)
	defer tick.Stop()
	for i := 0; ; i++ {
		if tl := a.g.log.DurableTimeline(); tl.Open && tl.Epoch == a.epoch && a.g.log.Durable() >= last {
			break
		}
		if i%looks == 0 {
			hint(a.kick)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for _, m := range a.machines {
		for _, d := range m.disks {
			noted := a.g.memo.volume(d.ID)
			noted.Need, noted.Stale = needBitmap, false
			if err := a.g.memo.setNeed(d.ID, noted); err != nil {
				return err
			}
		}
	}
	hint(a.kick) // the fencer says protected; its idle pause is not waited for
	if err := a.removeBitmaps(ctx, named(frozen)); err != nil {
		a.tryAgain("remove the bitmaps of the sync", err)
	}
	return nil
}

// syncDisk brings one volume of the replica up to its source.
func (a *attachment) syncDisk(ctx context.Context, m *machine, d disk) error {
	need := a.g.memo.volume(d.ID).Need
	if err := a.g.stream.control(a.epoch, journal.SyncBegin{Volume: d.ID, Kind: need.String()}); err != nil {
		return fmt.Errorf("note a sync of %s: %w", d.Name(), err)
	}
	defer a.g.status.setSync(d.ID, nil)
	a.g.status.setSync(d.ID, &SyncStatus{Kind: need.String(), Progress: sync.Progress{Total: d.now.Size}})
	r, err := a.openReader(ctx, m, d)
	if err != nil {
		return fmt.Errorf("read volume %s: %w", d.Name(), err)
	}
	defer r.close(ctx)
	copied, err := a.copyDisk(ctx, r, d, need)
	if err != nil {
		return fmt.Errorf("%s sync: %w", need, err)
	}
	// What was read last may depend on writes that have their seqs and are still
	// in the ring: no point may have the one without the other.
	if err := a.g.stream.waitAppended(ctx, a.link.ring.State().Last); err != nil {
		return fmt.Errorf("wait for writes before the end of the sync: %w", err)
	}
	if err := a.g.stream.control(a.epoch, journal.SyncEnd{Volume: d.ID, Kind: need.String(), Bytes: copied}); err != nil {
		return fmt.Errorf("note the end of the sync of %s: %w", d.Name(), err)
	}
	a.g.logger.Info("volume synced", "volume", d.Name(), "kind", need.String(), "bytes", copied)
	return nil
}

func (a *attachment) copyDisk(ctx context.Context, r *reader, d disk, need need) (copied int64, err error) {
	g := a.g
	opt := sync.Options{Volume: d.Name(), Size: d.now.Size, Progress: func(p sync.Progress) {
		copied = p.Copied
		g.status.setSync(d.ID, &SyncStatus{Kind: need.String(), Progress: p})
	}}
	src := sync.NewSource(r.pool)
	stream := &syncStream{stream: g.stream, volume: d.ID, epoch: a.epoch,
		last: func() journal.Seq { return a.link.ring.State().Last }, room: g.syncRoom}
	compare := need == needCompare || len(r.bitmaps) == 0 // without a bitmap nothing is known
	if need == needFull {
		if err := a.copyAll(ctx, src, d, opt); err != nil {
			return copied, err
		}
		compare = compare || g.memo.volume(d.ID).Stale
	}
	current, err := g.deps.Replica.Current(ctx, d.ID)
	if err != nil {
		return copied, fmt.Errorf("reach the replica: %w", err)
	}
	defer current.Close()
	if compare {
		err := sync.Compare(ctx, src, current, stream, opt)
		return copied, err
	}
	total, err := sync.CountRanges(sync.DirtyRanges(ctx, r.pool, r.bitmaps...))
	if err != nil {
		return copied, fmt.Errorf("read dirty bitmaps: %w", err)
	}
	err = sync.Ranges(ctx, src, current, sync.DirtyRanges(ctx, r.pool, r.bitmaps...), stream, sync.RangesOptions{Options: opt, Total: total})
	return copied, err
}

// copyAll is the initial sync. What the VM wrote since the attach is in the
// bitmaps or in the journal, which overrides the base.
func (a *attachment) copyAll(ctx context.Context, src sync.Source, d disk, opt sync.Options) error {
	replica := a.g.deps.Replica
	base, err := replica.Base(ctx, d.ID)
	if err != nil {
		return err
	}
	defer base.Close() // what counts is durable before, or not at all
	done := func(n int64) error { return replica.SetSyncProgress(d.ID, n) }
	from := min(replica.SyncProgress(d.ID), d.now.Size) // it may have shrunk
	full := sync.FullOptions{Options: opt, From: from, Checkpoint: done}
	if err := sync.Full(ctx, src, sparingBase{base, a.g.checkSpace}, full); err != nil {
		return err
	}
	return done(d.now.Size)
}

// sparingBase leaves the disk's reserve alone.
type sparingBase struct {
	sync.Base
	space func() error
}

// WriteAt implements sync.Base.
func (b sparingBase) WriteAt(p []byte, off int64) (int, error) {
	if err := b.space(); err != nil {
		return 0, err
	}
	return b.Base.WriteAt(p, off)
}

// reader is an NBD connection to a volume that a VM serves.
type reader struct {
	vm      vm.VM
	export  vm.Exported
	pool    *nbd.Pool
	bitmaps []string // frozen ones, offered as contexts
	timeout time.Duration
}

// readerOf says where a VM's NBD server is; the same for all groups of a hub.
func (g *Group) readerOf(ref VMRef) vm.ReaderConfig {
	return vm.ReaderConfig{Dir: filepath.Join(g.cfg.ReaderDir, ref.Name), Address: ref.NBDServer}
}

// readerConns is the number of connections a sync reads through.
const readerConns = 4

func (a *attachment) openReader(ctx context.Context, m *machine, d disk) (*reader, error) {
	ask, cancel := context.WithTimeout(ctx, a.g.cfg.MonitorTimeout)
	defer cancel()
	r := &reader{vm: m.vm, timeout: a.g.cfg.MonitorTimeout}
	conf := a.g.readerOf(m.ref)
	if err := os.MkdirAll(conf.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a place for the VM's socket: %w", err)
	}
	if err := m.vm.StartReader(ask, conf); err != nil {
		return nil, err
	}
	if err := a.withdrawOld(ask, m); err != nil {
		return nil, err
	}
	e := vm.Export{Group: a.g.tag, Node: d.now.Node, ID: vm.NewID()}
	contexts := []string{nbd.ContextAllocation}
	for _, b := range m.frozen(d) {
		e.Bitmaps = append(e.Bitmaps, b.Name)
		r.bitmaps = append(r.bitmaps, string(b.Name))
		contexts = append(contexts, sync.BitmapContext(string(b.Name)))
	}
	var err error
	if r.export, err = m.vm.Export(ask, e); err == nil {
		r.pool, err = nbd.DialPool(ask, r.export.URI(), readerConns, nbd.DialOptions{Contexts: contexts})
	}
	if err != nil {
		// The VM may have made it, though nobody waited for the answer.
		r.export.ID = vm.Name(vm.KindExport, a.g.tag, e.ID)
		r.withdraw(ctx)
		return nil, err
	}
	return r, nil
}

// withdrawOld takes away exports that an earlier run left behind: they hold bitmaps
// busy. A group reads one volume at a time, so none of them is needed. (QEMU says
// of those that they are on a tap's filter, whatever node they were made on.)
func (a *attachment) withdrawOld(ctx context.Context, m *machine) error {
	old, err := m.vm.ListExports(ctx, a.g.tag)
	if err != nil {
		return fmt.Errorf("list exports: %w", err)
	}
	for _, e := range old {
		if err := m.vm.Unexport(ctx, e.ID); err != nil && !errors.Is(err, vm.ErrBusy) {
			return fmt.Errorf("withdraw an old export: %w", err)
		}
	}
	return nil
}

// close leaves the volume; also when ctx has ended already.
func (r *reader) close(ctx context.Context) {
	r.pool.Close()
	r.withdraw(ctx)
}

func (r *reader) withdraw(ctx context.Context) {
	ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.timeout)
	defer cancel()
	for {
		err := r.vm.Unexport(ask, r.export.ID)
		if !errors.Is(err, vm.ErrBusy) || !sleep(ask, 20*time.Millisecond) {
			return // what is left is withdrawn before the next sync
		}
	}
}
