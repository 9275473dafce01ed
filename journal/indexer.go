package journal

import (
	"context"
)

// runIndexer gives every sealed segment its index file and merges the files,
// until ctx ends. What fails is tried again when the next segment is sealed.
func (l *Log) runIndexer(ctx context.Context) {
	defer close(l.done)
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
		for ctx.Err() == nil {
			did, err := l.set.MergeOnce(ctx)
			if err != nil && ctx.Err() == nil {
				l.opt.Logger.Error("merge indexes", "dir", l.dir, "err", err)
			}
			if err != nil || !did {
				break
			}
			if err := l.indexPending(ctx); err != nil {
				break
			}
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
