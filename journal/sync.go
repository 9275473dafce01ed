package journal

import (
	"fmt"
	"os"
	"path/filepath"
)

// syncFailedMark is an empty file in the journal's directory: this kernel has
// failed to write out what the page cache shows. It is made before ErrSyncFailed
// is first returned, so that a process started later does not believe the cache.
const syncFailedMark = "sync-failed"

// Sync makes everything durable that was appended when it was called, and
// returns the last seq of that. Appends go on meanwhile. When the disk refuses,
// the error wraps ErrSyncFailed and sticks: Durable stands still, appends are
// refused, until Recover.
func (l *Log) Sync() (Seq, error) {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	return l.sync()
}

// sync needs syncMu.
func (l *Log) sync() (Seq, error) {
	l.mu.Lock()
	s := &l.st
	err := s.usable()
	end := Pos{s.active.number, s.tail}
	snap := *s
	snap.unsynced = append([]*writer(nil), s.unsynced...)
	l.mu.Unlock()
	if err != nil {
		return snap.durable, err
	}
	if end == snap.synced && snap.dirDirty == 0 {
		return snap.durable, nil
	}
	if err := l.syncFiles(&snap); err != nil {
		err = fmt.Errorf("%w: %w", ErrSyncFailed, err)
		l.markSyncFailed()
		l.mu.Lock()
		s.failed = err
		l.mu.Unlock()
		return snap.durable, err
	}
	l.mu.Lock()
	s.durable, s.synced, s.durableTL, s.durableNo = snap.appended, end, snap.timeline, snap.serial
	s.unsynced = s.unsynced[len(snap.unsynced):]
	s.dirDirty -= snap.dirDirty
	for _, w := range snap.unsynced {
		w.synced = true
	}
	l.mu.Unlock()
	for _, w := range snap.unsynced {
		if err := w.file.Close(); err != nil {
			l.opt.Logger.Warn("close sealed segment", "file", w.name, "err", err)
		}
	}
	return snap.appended, nil
}

func (l *Log) syncFiles(s *state) error {
	for _, w := range s.unsynced {
		// What a failed append left behind the end would only be noise.
		if size, err := w.file.Size(); err == nil && size > w.length {
			w.file.Truncate(w.length)
		}
		if err := w.file.Sync(); err != nil {
			return fmt.Errorf("sync segment %s: %w", w.name, err)
		}
	}
	if err := s.active.file.Sync(); err != nil {
		return fmt.Errorf("sync segment %s: %w", s.active.name, err)
	}
	if s.dirDirty > 0 {
		if err := l.fs.SyncDir(l.dir); err != nil {
			return fmt.Errorf("sync directory %s: %w", l.dir, err)
		}
	}
	return nil
}

func (l *Log) markSyncFailed() {
	f, err := l.fs.OpenFile(filepath.Join(l.dir, syncFailedMark), os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		l.opt.Logger.Error("note the failed sync", "dir", l.dir, "err", err)
	}
}
