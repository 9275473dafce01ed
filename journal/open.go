package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal/index"
)

func newLog(fs vfs.FS, dir string, opt Options) (*Log, error) {
	opt.EnsureDefaults()
	if err := opt.Validate(); err != nil {
		return nil, fmt.Errorf("journal options: %w", err)
	}
	l := &Log{fs: fs, dir: dir, opt: opt, wake: make(chan struct{}, 1), done: make(chan struct{})}
	l.appender.sealer = newSealer()
	l.files = &fileCache{open: l.openSegment, max: opt.MaxOpenFiles, files: make(map[uint32]*openFile)}
	return l, nil
}

// Create makes an empty journal in dir, which is made if it is not there.
// os.ErrExist when a journal is there already. It is durable on return.
func Create(fs vfs.FS, dir string, id GroupID, opt Options) (*Log, error) {
	opt.EnsureDefaults()
	if err := fs.MkdirAll(filepath.Join(dir, indexDir), 0o700); err != nil {
		return nil, fmt.Errorf("create journal: %w", err)
	}
	if have, err := listSegments(fs, dir); err != nil {
		return nil, err
	} else if len(have) > 0 {
		return nil, fmt.Errorf("create journal in %s: %w", dir, os.ErrExist)
	}
	h := segmentHeader{group: id, number: 1, firstSeq: 1, firstTime: opt.Now().UnixNano()}
	if s := opt.Start; s != nil {
		h.firstSeq, h.serial, h.epoch, h.timeline = s.Last+1, s.Serial, s.Timeline.Epoch, s.Timeline
		h.firstTime = max(h.firstTime, s.Time)
	}
	head, err := h.encode()
	if err != nil {
		return nil, err
	}
	if err := vfs.WriteFileAtomic(fs, filepath.Join(dir, segmentName(1)), head, 0o600); err != nil {
		return nil, fmt.Errorf("create journal: %w", err)
	}
	if err := fs.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, fmt.Errorf("create journal: %w", err)
	}
	return Open(fs, dir, opt)
}

// Open opens a journal and mends what a crash left: a torn tail, which nobody
// was promised, is cut off (Recovered tells), missing indexes are made. Damage
// to what was durable is a *CorruptError, and nothing is changed then. What is
// there when Open returns is durable. os.ErrNotExist when there is no journal.
func Open(fs vfs.FS, dir string, opt Options) (*Log, error) {
	l, err := newLog(fs, dir, opt)
	if err != nil {
		return nil, err
	}
	if _, err := fs.Stat(dir); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if err := fs.MkdirAll(filepath.Join(dir, indexDir), 0o700); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if l.set, err = index.OpenSet(fs, filepath.Join(dir, indexDir)); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if err := l.load(); err != nil {
		for _, w := range append(l.st.unsynced, l.st.active) {
			if w != nil {
				w.file.Close()
			}
		}
		l.files.close()
		return nil, errors.Join(fmt.Errorf("open journal %s: %w", dir, err), l.set.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	go l.runIndexer(ctx)
	l.notify()
	return l, nil
}

// load brings the log's state to what the files say.
func (l *Log) load() error {
	r, err := readSegments(l.fs, l.dir, l.path)
	if err != nil {
		return err
	}
	if err := r.replay(); err != nil {
		return err
	}
	if r.chain.last < l.opt.Promised {
		e := CorruptError{File: r.path(r.active().number), Offset: r.end}
		if r.cut != nil {
			e = *r.cut
		}
		e.Detail += fmt.Sprintf(" (the log ends at seq %d, and was durable up to %d)", r.chain.last, l.opt.Promised)
		return &e
	}
	if r.cut != nil {
		if err := l.checkCut(r); err != nil {
			return err
		}
		if err := l.applyCut(r); err != nil {
			return err
		}
	}
	l.removeTemps()
	l.group = r.heads[0].group
	l.rec.Segments = len(r.heads)
	if err := l.adopt(r); err != nil {
		return err
	}
	if !l.opt.NoIndex {
		if err := l.reindex(); err != nil {
			return err
		}
	}
	return l.settle()
}

// removeTemps removes what an interrupted rewrite left. It only takes space, so
// an error is no reason not to open.
func (l *Log) removeTemps() {
	entries, err := l.fs.ReadDir(l.dir)
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".rhj"+vfs.TempSuffix) {
			err = errors.Join(err, l.fs.Remove(filepath.Join(l.dir, e.Name())))
		}
	}
	if err != nil {
		l.opt.Logger.Warn("remove unfinished files", "dir", l.dir, "err", err)
	}
}

// checkCut refuses to cut off what was durable.
func (l *Log) checkCut(r *replayer) error {
	cut := r.cutAt
	if proof, ok, err := r.proofAfter(cut); err != nil {
		return err
	} else if ok {
		e := *r.cut
		e.Detail += fmt.Sprintf(" (it was durable: segment %d, byte %d says so)", proof.Segment, proof.Off)
		return &e
	}
	for _, n := range l.set.Segments() {
		if n >= cut.Segment {
			e := *r.cut
			e.Detail += fmt.Sprintf(" (it was durable: segment %d is indexed)", n)
			return &e
		}
	}
	return nil
}

// applyCut removes the torn tail from the disk.
func (l *Log) applyCut(r *replayer) error {
	l.rec.Cut, l.rec.Reason = true, r.cut.Detail
	l.rec.File, l.rec.Offset = r.cut.File, r.cutAt.Off
	last := r.numbers[len(r.numbers)-1]
	for n := last; n > r.active().number; n-- {
		info, err := l.fs.Stat(l.path(n))
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		l.rec.Bytes += info.Size()
		if err := l.fs.Remove(l.path(n)); err != nil {
			return fmt.Errorf("remove torn segment: %w", err)
		}
		// One by one, so that a crash now leaves what this was made from.
		if err := l.fs.SyncDir(l.dir); err != nil {
			return fmt.Errorf("remove torn segment: %w", err)
		}
	}
	info, err := l.fs.Stat(l.path(r.active().number))
	if err != nil {
		return err
	}
	l.rec.Bytes += info.Size() - r.end
	l.opt.Logger.Warn("cut off the journal's torn tail", "file", l.rec.File, "offset", l.rec.Offset, "bytes", l.rec.Bytes, "reason", l.rec.Reason)
	return nil
}

// adopt takes over the state that the replay found, and opens the segments that
// may not be durable for writing.
func (l *Log) adopt(r *replayer) error {
	s := &l.st
	for i := range r.heads {
		seg := r.heads[i].segment()
		seg.length = r.lengths[i]
		s.segs = append(s.segs, seg)
		s.bytes += seg.length
	}
	s.bytes -= r.end
	s.tail = r.end
	s.appended, s.time, s.serial = r.chain.last, r.chain.time, r.chain.serial
	tl := r.chain.tl
	s.timeline = &tl
	s.synced = r.chain.synced
	l.appender.hash = r.chain.hash
	for i := r.start; i < len(r.heads); i++ {
		name := l.path(r.heads[i].number)
		f, err := l.fs.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("open segment: %w", err)
		}
		w := &writer{number: r.heads[i].number, name: name, file: f, mem: r.mems[i-r.start], length: r.lengths[i], entries: r.entries[i-r.start]}
		if i == len(r.heads)-1 {
			s.active = w
		} else {
			s.unsynced = append(s.unsynced, w)
		}
		if size, err := f.Size(); err != nil {
			return err
		} else if size > w.length {
			if err := f.Truncate(w.length); err != nil {
				return fmt.Errorf("cut off torn tail: %w", err)
			}
		}
	}
	return nil
}

// settle makes durable what was found.
func (l *Log) settle() error {
	s := &l.st
	s.dirDirty++
	s.durableTL, s.durableNo = s.timeline, s.serial
	mark := filepath.Join(l.dir, syncFailedMark)
	if _, err := l.fs.Stat(mark); err == nil {
		return l.rewriteUnsynced()
	}
	_, err := l.sync()
	return err
}
