package journal

import (
	"fmt"
	"log/slog"
	"time"
)

// Options of a Log. Zero fields are the defaults given.
type Options struct {
	// SegmentBytes: a segment is sealed before it would grow beyond. 64 MiB.
	SegmentBytes int64
	// SegmentEntries bounds the entries of a segment, and with them the memory
	// of its index until it is sealed. 65,536, which is also the most.
	SegmentEntries int
	// MaxPending bounds the sealed segments that wait for their index file;
	// their indexes are in memory. Beyond it Append answers ErrBehind. 32.
	MaxPending int
	// MaxOpenFiles bounds the segment files kept open for reading. 512.
	MaxOpenFiles int
	// Promised is a seq that somebody else knows to be durable: Open refuses to
	// cut off a tail, however torn it looks, that began at or below it. 0.
	Promised Seq
	// Number the batches, so that another journal can follow this one (Follow).
	// A journal that follows takes the numbers of the one it follows.
	Number bool
	// NoIndex: nobody is going to look anything up, as in a journal that is only
	// followed. Then there is no index, in memory or on disk.
	NoIndex bool
	// Start is where Create begins: at the end of the journal that is going to
	// follow. The very beginning.
	Start *Start
	// Now is the wall clock of control records and sync data. time.Now.
	Now func() time.Time
	// Logger gets what happens in the background. Nothing is logged by default.
	Logger *slog.Logger
}

// Start is the state of a journal at the end of another one.
type Start struct {
	Timeline Timeline `json:"timeline"`
	Last     Seq      `json:"last"`
	Time     int64    `json:"time"` // of the last entry, ns since 1970
	Serial   Serial   `json:"serial"`
}

// EnsureDefaults fills in the zero fields.
func (o *Options) EnsureDefaults() {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 64 << 20
	}
	if o.SegmentEntries == 0 {
		o.SegmentEntries = maxBatchEntries
	}
	if o.MaxPending == 0 {
		o.MaxPending = 32
	}
	if o.MaxOpenFiles == 0 {
		o.MaxOpenFiles = 512
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Validate tells what is out of range.
func (o *Options) Validate() error {
	switch {
	case o.SegmentBytes < 2*segmentBlock:
		return fmt.Errorf("segments of %d bytes are too small", o.SegmentBytes)
	case o.SegmentEntries < 1 || o.SegmentEntries > maxBatchEntries:
		return fmt.Errorf("segments of %d entries: 1 to %d are possible", o.SegmentEntries, maxBatchEntries)
	case o.MaxPending < 1 || o.MaxOpenFiles < 1:
		return fmt.Errorf("limits of %d waiting segments and %d files: at least 1", o.MaxPending, o.MaxOpenFiles)
	}
	return nil
}
