package sync

import "fmt"

// Error says which bytes of which volume a sync stopped at.
type Error struct {
	Volume   string
	Op       string // what was tried, a verb phrase
	Off, Len int64  // bytes
	Err      error
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s of volume %s, %d bytes at offset %d: %v", e.Op, e.Volume, e.Len, e.Off, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// SizeError says that a volume does not measure what it should: it was resized,
// or is not the one that was meant.
type SizeError struct {
	Volume    string
	What      string // whose size: "source", "replica"
	Want, Got int64  // bytes
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("%s of volume %s has %d bytes, expected %d", e.What, e.Volume, e.Got, e.Want)
}
