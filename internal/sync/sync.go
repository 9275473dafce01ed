// Package sync brings a replica's volume up to its source, because a tap only
// tells what is written from now on: Full copies everything, Ranges what a
// dirty bitmap names, Compare what differs.
package sync

import (
	"context"
	"fmt"
	"time"

	"github.com/rephub/rephub/block"
)

// Block is the granularity in bytes at which zeroes are found and differences
// are told apart.
const Block = 4096

// Source is the volume that is read. Methods may be called concurrently and
// return when ctx ends, whatever the peer does.
type Source interface {
	// ReadAt fills p wholly from byte off, or fails. p is free for reuse only
	// after the return.
	ReadAt(ctx context.Context, p []byte, off int64) error
	// Size is the volume's length in bytes, as the peer tells it now.
	Size() int64
	// Allocated tells which bytes read as zeroes, in order from off on. It may
	// stop short of off+n, but covers at least the byte at off.
	Allocated(ctx context.Context, off, n int64) ([]block.Extent, error)
}

// Base is where the initial sync writes: a base image. WriteAt and Zero may be
// called concurrently for ranges that do not overlap.
type Base interface {
	WriteAt(p []byte, off int64) (int, error)
	// Zero makes n bytes at off read as zeroes, as a hole where possible.
	Zero(off, n int64) error
	// Sync makes durable what WriteAt and Zero did before it was called.
	Sync() error
}

// Ticket names one open interest in a range, given by Stream.Begin.
type Ticket uint64

// Stream takes the records of a bitmap or compare sync into the group's
// journal. The tap goes on meanwhile: between Begin and End the stream remembers
// which parts of the range the tap wrote, and Commit leaves those parts out,
// because what was read there may be older. Methods are called concurrently.
type Stream interface {
	// Begin is called before the source is asked anything about r.
	Begin(r block.Range) Ticket
	// Commit stores what the source holds in r, which lies within the ticket's
	// range: data of r.Len bytes, valid until the return, or zeroes if nil.
	Commit(ctx context.Context, t Ticket, r block.Range, data []byte) error
	// End forgets the ticket. Every Begin is followed by one End.
	End(t Ticket)
}

// Progress says how far a sync is.
type Progress struct {
	Done, Total int64   // bytes of the volume (or of its dirty ranges), holes included
	Copied      int64   // bytes written to the base or committed, zeroes not counted
	Rate        float64 // Done per second, over the last seconds
}

// Options of every kind of sync. Zero fields are the defaults named here.
type Options struct {
	Volume string // names the volume in errors
	// Size is what the source must measure in bytes; 0 takes what it says. A
	// source that has another size, before or after, fails with a *SizeError.
	Size int64
	// Progress is called after every step, by one goroutine at a time.
	Progress func(Progress)
	// Requests is how many reads are in flight; 16.
	Requests int
	// RequestSize is the length of one read in bytes, a multiple of Block;
	// 256 KiB: more at once would not fit the processors' caches, and be slower.
	// Memory used is twice Requests × RequestSize at most; 16 MiB if the replica is
	// on another machine.
	RequestSize int
	// Now is the clock of Rate; time.Now.
	Now func() time.Time
}

// FullOptions are those of the initial sync.
type FullOptions struct {
	Options
	// From is where to resume, in bytes: what an earlier run's Checkpoint said.
	From int64
	// Checkpoint is told now and then that everything below done is in the base
	// and durable. An error ends the sync.
	Checkpoint func(done int64) error
	// CheckpointEvery is the number of bytes between checkpoints; 256 MiB. Each
	// starts a sync beside the reads, so that little is left for the last one.
	CheckpointEvery int64
	// CheckpointAfter is the time after which there is one anyhow; 5 s. What was
	// copied since the last is copied again when the way to the base breaks, and on
	// a slow way that breaks often the sync would never end.
	CheckpointAfter time.Duration
}

// RangesOptions are those of a bitmap sync.
type RangesOptions struct {
	Options
	// Total is the number of dirty bytes, for Progress; 0 is the volume's size.
	Total int64
}

// EnsureDefaults fills zero fields.
func (o *Options) EnsureDefaults() {
	if o.Requests == 0 {
		o.Requests = 16
	}
	if o.RequestSize == 0 {
		o.RequestSize = 256 << 10
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

// maxBuffers is the memory in bytes for what is read at a time.
const maxBuffers = 16 << 20

// Validate reports settings that make no sense or would break the memory bound of 32 MiB.
func (o *Options) Validate() error {
	switch {
	case o.Requests < 0:
		return fmt.Errorf("%d requests in flight", o.Requests)
	case o.RequestSize < 0 || o.RequestSize%Block != 0:
		return fmt.Errorf("request size %d is no multiple of %d", o.RequestSize, Block)
	case int64(o.Requests)*int64(o.RequestSize) > maxBuffers:
		return fmt.Errorf("%d requests of %d bytes need more than 32 MiB of buffers", o.Requests, o.RequestSize)
	case o.Size < 0:
		return fmt.Errorf("volume size %d is negative", o.Size)
	}
	return nil
}
