package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rephub/rephub/internal/relay"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
)

// spool is a group's journal on its way to the hub: bounded, numbered, and
// durable only where the hub says so. It is protect.Journal.
type spool struct {
	*journal.Log
	fs     vfs.FS
	dir    string
	share  share
	wake   chan struct{} // to the sender: something was appended
	sender *relay.Sender
	logger *slog.Logger

	order sync.Mutex // of an append and what it adds to the share

	synced   atomic.Int64 // when the last Sync began, ns since 1970
	unsynced atomic.Int64 // bytes appended since
}

// spoolOptions fit a spool of limit bytes: the segments that the hub has are
// given back one by one, so that none may be a large part of it.
func spoolOptions(limit int64, logger *slog.Logger) journal.Options {
	return journal.Options{Number: true, NoIndex: true, SegmentBytes: min(64<<20, max(1<<20, limit/32)), Logger: logger}
}

// openSpool opens the spool of an earlier run; os.ErrNotExist when there is none.
func openSpool(fs vfs.FS, dir string, id journal.GroupID, b *budget, logger *slog.Logger) (*spool, error) {
	if _, err := fs.Stat(dir); err != nil {
		return nil, err
	}
	log, err := journal.Open(fs, dir, spoolOptions(b.limit, logger))
	if err != nil {
		return nil, err
	}
	if log.Group() != id {
		return nil, errors.Join(fmt.Errorf("the spool in %s is of group %s", dir, log.Group()), log.Close())
	}
	return newSpool(fs, dir, log, b, logger)
}

// createSpool makes a spool that begins where the hub's journal ends. It is
// made beside its place, so that one that is there is whole.
func createSpool(fs vfs.FS, dir string, id journal.GroupID, end journal.Start, b *budget, logger *slog.Logger) (*spool, error) {
	making := dir + ".new"
	if err := os.RemoveAll(making); err != nil {
		return nil, fmt.Errorf("make a spool: %w", err)
	}
	if err := fs.MkdirAll(making, 0o700); err != nil {
		return nil, fmt.Errorf("make a spool: %w", err)
	}
	opt := spoolOptions(b.limit, logger)
	opt.Start = &end
	log, err := journal.Create(fs, making, id, opt)
	if err == nil {
		err = log.Close()
	}
	if err == nil {
		err = fs.Rename(making, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("make a spool: %w", err)
	}
	return openSpool(fs, dir, id, b, logger)
}

func newSpool(fs vfs.FS, dir string, log *journal.Log, b *budget, logger *slog.Logger) (*spool, error) {
	s := &spool{Log: log, fs: fs, dir: dir, share: share{b: b}, wake: make(chan struct{}, 1), logger: logger}
	var err error
	s.sender, err = relay.NewSender(relay.SenderConfig{Log: log, Wake: s.wake, Changed: s.count, Logger: logger})
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	s.count()
	b.enter(s)
	return s, nil
}

// reclaim removes what the hub has confirmed.
func (s *spool) reclaim() {
	if err := s.Log.DropShipped(s.sender.Durable().Serial); err != nil {
		s.logger.Warn("give back what the hub has of a spool", "dir", s.dir, "err", err)
	}
	s.count()
}

// count tells the budget what the spool has. When the hub has all of it, that is
// nothing: the last segment stays, and must keep nobody from going on.
func (s *spool) count() {
	s.order.Lock()
	defer s.order.Unlock()
	s.share.set(s.kept())
}

// kept is what the spool has for the hub, in whole segments, bytes.
func (s *spool) kept() int64 {
	if s.sender.Durable().Serial >= s.Log.Serial() {
		return 0
	}
	return s.Log.Bytes()
}

// appended counts, and wakes the sender.
func (s *spool) appended(err error) error {
	s.count()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return err
}

// Append implements protect.Journal.
func (s *spool) Append(b journal.Batch) error {
	var n int64
	for _, r := range b.Regions {
		n += int64(len(r))
	}
	if err := s.share.b.room(n); err != nil {
		return err
	}
	s.unsynced.Add(n)
	return s.appended(s.Log.Append(b))
}

// AppendControl implements protect.Journal. Records have room always: they are few.
func (s *spool) AppendControl(e journal.Epoch, recs ...journal.Control) error {
	return s.appended(s.Log.AppendControl(e, recs...))
}

// AppendSyncs implements protect.Journal.
func (s *spool) AppendSyncs(e journal.Epoch, w []journal.SyncWrite) error {
	var n int64
	for i := range w {
		n += int64(len(w[i].Data)) + journal.EntryHeaderSize
	}
	if err := s.share.b.room(n); err != nil {
		return err
	}
	s.unsynced.Add(n)
	return s.appended(s.Log.AppendSyncs(e, w))
}

// syncEvery is how often a spool is synced, unless much was appended meanwhile.
const syncEvery = 2 * time.Second

// Sync implements protect.Journal. It is in no hurry: what counts is what the hub
// has, and after a power loss of the host the volumes are compared anyhow. But
// only what is durable here, too, is given back.
func (s *spool) Sync() (journal.Seq, error) {
	now, bytes := time.Now().UnixNano(), s.unsynced.Load()
	if now-s.synced.Load() < int64(syncEvery) && bytes < s.share.b.limit/8 {
		return s.Durable(), nil
	}
	_, err := s.Log.Sync()
	if err == nil {
		s.synced.Store(now)
		s.unsynced.Add(-bytes)
	}
	return s.Durable(), err
}

// Durable is what the hub has confirmed.
func (s *spool) Durable() journal.Seq { return s.sender.Durable().Seq }

// DurableTimeline is what the hub has confirmed, as far as it tells: the newest
// point and no other.
func (s *spool) DurableTimeline() journal.Timeline {
	a := s.sender.Durable()
	here := s.Log.Timeline()
	t := journal.Timeline{Epoch: a.Epoch, Open: a.Open, Volumes: here.Volumes}
	if a.Point > 0 {
		t.Ranges = []journal.SeqRange{{From: a.Point, To: a.Point}}
	}
	if here.LastFence.Seq == a.Fence {
		t.LastFence = here.LastFence
	}
	return t
}

// Settled implements protect.Journal: the hub has confirmed what is in the
// spool now.
func (s *spool) Settled(ctx context.Context) error {
	return s.sender.Wait(ctx, s.Log.Serial())
}

// roomEvery is how often one who waits for room looks.
const roomEvery = 50 * time.Millisecond

// syncRoom waits until the spools hold so little that a sync may add to it.
func (s *spool) syncRoom(ctx context.Context) error {
	for !s.share.b.sparse() {
		if !sleep(ctx, roomEvery) {
			return context.Cause(ctx)
		}
	}
	return nil
}

// close gives the files back.
func (s *spool) close() error {
	s.share.b.leave(s)
	s.share.set(0)
	_, err := s.Log.Sync()
	return errors.Join(err, s.Log.Close())
}
