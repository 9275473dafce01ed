package journal

import (
	"context"
	"sync"
)

// runIndexer gives every sealed segment its index file, and has the files
// merged, until ctx ends. What fails is tried again when the next segment is
// sealed. A merge may take minutes where there is much history: sealed segments,
// whose number is bounded, do not wait for it.
func (l *Log) runIndexer(ctx context.Context) {
	defer close(l.done)
	due := make(chan struct{}, 1)
	var merger sync.WaitGroup
	merger.Go(func() { l.runMerger(ctx, due) })
	defer merger.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		}
		if err := l.indexPending(ctx); err != nil {
			if ctx.Err() == nil {
				l.opt.Logger.Error("index sealed segments", "dir", l.dir, "err", err)
			}
			continue
		}
		select {
		case due <- struct{}{}:
		default:
		}
	}
}

// runMerger merges index files, whenever there may be some to merge.
func (l *Log) runMerger(ctx context.Context, due <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-due:
		}
		for did := true; did && ctx.Err() == nil; {
			var err error
			if did, err = l.set.MergeOnce(ctx); err != nil && ctx.Err() == nil {
				l.opt.Logger.Error("merge indexes", "dir", l.dir, "err", err)
			}
			did = did && err == nil
		}
	}
}

// indexPending writes the index files of the segments sealed so far, oldest
// first; each only once its segment is durable.
func (l *Log) indexPending(ctx context.Context) error {
	for ctx.Err() == nil {
		l.mu.Lock()
		if len(l.st.pending) == 0 {
			l.mu.Unlock()
			return nil
		}
		w := l.st.pending[0]
		synced := w.synced
		l.mu.Unlock()
		if !synced {
			if _, err := l.Sync(); err != nil {
				return err
			}
			continue
		}
		if err := l.set.Install(w.number, w.mem); err != nil {
			return err
		}
		l.mu.Lock()
		l.st.pending = l.st.pending[1:]
		l.mu.Unlock()
	}
	return ctx.Err()
}
