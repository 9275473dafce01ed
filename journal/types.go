// Package journal is the ordered log of a consistency group's writes: its
// format, its writer and its readers. It knows no NBD and no QEMU.
//
// docs/journal-format.md gives the format byte by byte; version 1 of it will
// stay readable.
package journal

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
)

// Seq is a position in a group's history. Write N has seq N; 0 is before all.
type Seq uint64

// String is the decimal form.
func (s Seq) String() string { return strconv.FormatUint(uint64(s), 10) }

// ParseSeq reads the decimal form.
func ParseSeq(s string) (Seq, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("parse seq %q: not a number", s)
	}
	return Seq(n), nil
}

// Epoch numbers the starts of a group's sequencer. 0 is before the first.
type Epoch uint64

// String is the decimal form.
func (e Epoch) String() string { return strconv.FormatUint(uint64(e), 10) }

// ParseEpoch reads the decimal form.
func ParseEpoch(s string) (Epoch, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("parse epoch %q: not a number", s)
	}
	return Epoch(n), nil
}

// Serial numbers the batches of a journal that another one follows, from 1
// without a gap. It is exact where a seq is not: sync and control records share
// the seq of the record before them.
type Serial uint64

// VolumeID numbers a volume within its group, from 1; never used again.
type VolumeID uint32

// String is the decimal form.
func (v VolumeID) String() string { return strconv.FormatUint(uint64(v), 10) }

// ParseVolumeID reads the decimal form.
func ParseVolumeID(s string) (VolumeID, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("parse volume number %q: not a number", s)
	}
	return VolumeID(n), nil
}

// GroupID is the identity (UUID) of a group; it stands in every segment.
type GroupID [16]byte

// String is the usual form of a UUID.
func (g GroupID) String() string {
	h := hex.EncodeToString(g[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// ParseGroupID reads the usual form of a UUID.
func ParseGroupID(s string) (GroupID, error) {
	var g GroupID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return g, fmt.Errorf("parse group id %q: not a UUID", s)
	}
	if _, err := hex.Decode(g[:], []byte(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:])); err != nil {
		return GroupID{}, fmt.Errorf("parse group id %q: not a UUID", s)
	}
	return g, nil
}

// MarshalText and UnmarshalText make the id readable in JSON.
func (g GroupID) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (g *GroupID) UnmarshalText(p []byte) error {
	id, err := ParseGroupID(string(p))
	if err == nil {
		*g = id
	}
	return err
}

// SeqRange is the seqs From … To, both included.
type SeqRange struct {
	From Seq `json:"from"`
	To   Seq `json:"to"`
}

// Contains tells whether s lies in the range.
func (r SeqRange) Contains(s Seq) bool { return r.From <= s && s <= r.To }

// Errors callers branch on.
var (
	// ErrCorrupt: bytes that were promised to be there are not what was
	// written. Always wrapped by a *CorruptError.
	ErrCorrupt = errors.New("journal is damaged")
	// ErrGap: the batch does not begin right after the last seq.
	ErrGap = errors.New("seq does not follow")
	// ErrFenced: the batch is of an older epoch, or of one never attached.
	ErrFenced = errors.New("epoch is not the current one")
	// ErrSyncFailed: the disk refused a sync, so what was appended since the
	// last good one cannot be trusted. It sticks until Recover.
	ErrSyncFailed = errors.New("journal sync failed")
	// ErrDropped: the segment is no longer kept.
	ErrDropped = errors.New("journal segment was dropped")
	// ErrInvalid: the caller's entries or records break the format's rules.
	ErrInvalid = errors.New("invalid journal record")
	// ErrWouldRewrite: sync data at this seq would change a point that is
	// already offered. Attach first.
	ErrWouldRewrite = errors.New("sync data would change a recovery point")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("journal is closed")
	// ErrNoSeq: no seq answers the question.
	ErrNoSeq = errors.New("no such point in the journal")
	// ErrVersion: the file is of a version this program does not know.
	ErrVersion = errors.New("journal version is not supported")
)

// CorruptError says which bytes of which file are bad.
type CorruptError struct {
	File   string
	Offset int64 // of the first byte in doubt
	Len    int64 // bytes in doubt
	Detail string
	// cause is set when no interrupted write can have left these bytes: the
	// log does not just end here.
	cause error
}

// errForeign: the bytes are whole, and belong elsewhere.
var errForeign = errors.New("file belongs elsewhere")

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s: bytes %d to %d: %s", e.File, e.Offset, e.Offset+max(e.Len, 1)-1, e.Detail)
}

// Unwrap makes errors.Is(err, ErrCorrupt) true, and ErrVersion where it applies.
func (e *CorruptError) Unwrap() []error {
	if e.cause == nil {
		return []error{ErrCorrupt}
	}
	return []error{ErrCorrupt, e.cause}
}
