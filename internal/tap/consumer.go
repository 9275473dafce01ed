package tap

import (
	"context"

	"github.com/rephub/rephub/journal"
)

// Consumer takes entries out of a ring, one goroutine at a time; State, Mark and Passed may be called by any.
type Consumer struct{}

// NewConsumer starts where the last consumer released.
func NewConsumer(r *Ring) (*Consumer, error) { panic("being written") }

// Run is a row of whole entries in order, in place in the ring, all of one epoch. Regions are valid until Release, and may be
// written to by their holder (payload checksums).
type Run struct {
	Regions     [2][]byte // encoded entries as in the journal; the second is empty unless the run goes around the ring's end
	First, Last journal.Seq
	Count       int
	Epoch       journal.Epoch
	end         uint64
}

// Next returns the next run of at most max bytes but at least one entry, and false when there is none. It may be called again
// before Release. An error wraps ErrCorrupt or ErrReplaced and stays.
func (c *Consumer) Next(max int) (Run, bool, error) { panic("being written") }

// Release gives a run's memory back to the ring. Runs are released in the order of Next.
func (c *Consumer) Release(r Run) error { panic("being written") }

// Wait returns when there may be something new: an entry, or a change of State other than Last, Used and the counters.
func (c *Consumer) Wait(ctx context.Context) error { panic("being written") }

// State pictures the ring now.
func (c *Consumer) State() State { panic("being written") }

// Mark is a place in the ring: everything that has its seq when it is taken lies before it.
type Mark uint64

// Mark marks the present.
func (c *Consumer) Mark() Mark { panic("being written") }

// Passed reports whether everything before m has been released.
func (c *Consumer) Passed(m Mark) bool { panic("being written") }

// Close unmaps the ring. Nobody may use the Consumer or a Run of it any more.
func (c *Consumer) Close() error { panic("being written") }
