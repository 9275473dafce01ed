package journal

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal/index"
)

// ErrBehind: too many sealed segments wait for their index file; try again
// when the disk has caught up.
var ErrBehind = errors.New("journal's index is behind")

// Log is one group's journal, open for appending and reading. All methods may
// be called concurrently.
//
// Locks, in the order in which they are taken: appendMu, syncMu, mu. Appends
// hold appendMu over their write; Sync holds syncMu over the disk's sync; mu is
// never held over I/O and is the only one a reader takes.
type Log struct {
	fs    vfs.FS
	dir   string
	opt   Options
	group GroupID
	set   *index.Set
	files *fileCache
	rec   Recovery

	appendMu sync.Mutex
	appender appender // guarded by appendMu

	syncMu sync.Mutex

	dropMu sync.Mutex // one DropBefore at a time; taken before the others

	mu sync.Mutex
	st state // guarded by mu

	wake   chan struct{} // to the indexer: there is something to do
	cancel context.CancelFunc
	done   chan struct{} // the indexer has ended
}

// state is what readers see and what appends and syncs hand to each other.
type state struct {
	segs     []segment // ascending without a gap; the last is active
	bytes    int64     // of all segments but the active one
	tail     int64     // bytes in the active one
	appended Seq
	serial   Serial    // of the last numbered batch
	time     int64     // of the last entry
	timeline *Timeline // immutable

	durable   Seq
	durableNo Serial
	synced    Pos
	durableTL *Timeline

	active   *writer
	unsynced []*writer // sealed, not yet synced
	pending  []*writer // sealed, not yet indexed
	dropped  uint32    // segments up to it are gone, or going
	dirDirty int       // segment files made or removed since the directory was synced

	failed error // sticks until Recover
	closed bool
}

// segment is all that is kept in memory of a sealed segment.
type segment struct {
	firstTime int64
	length    int64 // bytes; of the active one: state.tail
	firstSeq  Seq
	serial    Serial // of the last numbered batch before it
	number    uint32
	head      uint32 // bytes of the header
}

// writer is a segment file that is written, or waits to be synced and indexed.
type writer struct {
	number  uint32
	name    string
	file    vfs.File
	mem     *index.Mem
	entries int
	length  int64 // bytes, set when sealed
	synced  bool  // guarded by Log.mu
}

// Recovery says what opening a journal had to do.
type Recovery struct {
	// Cut: the tail was torn; the bytes from Offset on of File, and the
	// segments after it, were removed. They had never been promised.
	Cut      bool
	File     string
	Offset   int64
	Bytes    int64 // removed
	Reason   string
	Reindex  int // segments whose index was made anew
	Segments int // segments found
}

func segmentName(number uint32) string { return fmt.Sprintf("%012d.rhj", number) }

func (l *Log) path(number uint32) string { return filepath.Join(l.dir, segmentName(number)) }

// indexDir is where the index files are, in the journal's directory.
const indexDir = "index"

// Group is the identity the journal was created with.
func (l *Log) Group() GroupID { return l.group }

// Recovered says what Open had to mend.
func (l *Log) Recovered() Recovery { return l.rec }

// Appended is the last seq appended; it may not be durable.
func (l *Log) Appended() Seq {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.st.appended
}

// Durable is the last seq that survives a power loss.
func (l *Log) Durable() Seq {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.st.durable
}

// Timeline is a snapshot of what was appended.
func (l *Log) Timeline() Timeline {
	l.mu.Lock()
	defer l.mu.Unlock()
	return *l.st.timeline
}

// DurableTimeline is the timeline as it would be after a power loss now: its
// points are those that may be promised.
func (l *Log) DurableTimeline() Timeline {
	l.mu.Lock()
	defer l.mu.Unlock()
	return *l.st.durableTL
}

// End is where a journal begins that continues this one (Options.Start).
func (l *Log) End() Start {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Start{Timeline: *l.st.timeline, Last: l.st.appended, Time: l.st.time, Serial: l.st.serial}
}

// Bytes is the size of all segments; the index files are not counted.
func (l *Log) Bytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.st.bytes + l.st.tail
}

// FirstSeq is the lowest seq that the oldest segment may hold.
func (l *Log) FirstSeq() Seq {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.st.segs[0].firstSeq
}

// Index finds payloads; the places it gives are for ReadPayload.
func (l *Log) Index() *index.Set { return l.set }

// Err is the error that sticks to the log, nil while it can be appended to.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.st.usable()
}

func (s *state) usable() error {
	if s.closed {
		return ErrClosed
	}
	return s.failed
}

// Close syncs, waits for the background work under way and closes the files.
// It may be called twice. Readers must have returned.
func (l *Log) Close() error {
	l.cancel()
	<-l.done
	_, err := l.Sync()
	if errors.Is(err, ErrClosed) {
		return nil
	}
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	l.mu.Lock()
	if l.st.closed {
		l.mu.Unlock()
		return nil
	}
	l.st.closed = true
	writers := append(l.st.unsynced, l.st.active)
	l.st.unsynced = nil
	l.mu.Unlock()
	for _, w := range writers {
		err = errors.Join(err, w.file.Close())
	}
	l.files.close()
	return errors.Join(err, l.set.Close())
}
