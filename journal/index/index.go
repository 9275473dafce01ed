// Package index finds, for any block of a volume and any seq, the newest
// journal entry that wrote it, without reading the journal.
//
// An extent is cut into whole aligned units of six sizes (see level.go), so
// that the newest version of a unit at or below a seq is one search in a list
// sorted by (volume, level, unit, seq). The journal's active segment has its
// index in memory (Mem); every sealed segment has a file; files are merged in
// tiers that keep all versions. A Set is all of them together. The package
// knows nothing of the journal: it maps extents to places in segment files.
package index

import (
	"errors"
	"fmt"
)

// Extent is one journal entry's effect: Len bytes of a volume from Off were
// written (or zeroed) at Seq.
//
// Extents are added in log order: Seq never decreases, and among extents of
// equal Seq the pair (Segment, Pos) increases and decides which is later.
type Extent struct {
	Volume  uint32
	Off     int64  // bytes
	Len     int64  // bytes
	Seq     uint64 // of the entry
	Zero    bool   // reads as zeroes; there is no payload
	Segment uint32 // number of the segment file
	// Pos is the position in the segment file of the first payload byte. A
	// Zero extent gives the place where its payload would have been, so that
	// Pos tells the order of extents of equal Seq.
	Pos int64
}

// Kind says where the bytes of a Piece are.
type Kind uint8

// The kinds of a Piece.
const (
	None Kind = iota // not in the index between floor and at: ask the base
	Zero             // reads as zeroes
	Data             // payload at Pos of Segment
)

// String returns the kind in lower case.
func (k Kind) String() string {
	switch k {
	case None:
		return "none"
	case Zero:
		return "zero"
	case Data:
		return "data"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Piece is a part of the answer to a lookup.
type Piece struct {
	Off     int64  // bytes in the volume
	Len     int64  // bytes
	Pos     int64  // Data: first byte in the segment file
	Seq     uint64 // of the newest entry in the piece; 0 for None
	Segment uint32 // Data: the segment file
	Kind    Kind
}

// ErrCorrupt says that an index file is damaged. Index files are derived: a
// damaged one is removed when its set is closed or opened, and its segments
// are then missing from Segments, to be indexed again.
var ErrCorrupt = errors.New("index file is corrupt")

// ErrClosed says that the set was closed.
var ErrClosed = errors.New("index set is closed")

// CorruptError names the damaged place. It matches ErrCorrupt.
type CorruptError struct {
	File string // path
	Off  int64  // byte offset of the damaged block or field
	Why  string
}

// Error implements error.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("index file %s at byte %d: %s", e.File, e.Off, e.Why)
}

// Unwrap makes errors.Is(err, ErrCorrupt) hold.
func (e *CorruptError) Unwrap() error { return ErrCorrupt }
