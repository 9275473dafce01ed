package nbd

import (
	"slices"
	"sync"
)

// maxGaps bounds the separate pieces in which a server may deliver one read.
const maxGaps = 4096

// call is one request of a client. What its reply brings is written under mu, and only until it is abandoned.
type call struct {
	cmd    command
	flags  CommandFlags
	cookie uint64
	off, n uint64 // range in the export
	data   uint64 // bytes of payload sent

	done chan struct{} // closed by complete

	// The reader's alone until done is closed.
	covered []span                    // of a read, relative to off, ascending, never touching
	status  map[uint32]bool           // contexts of a block status that have been reported
	visit   map[uint32]func([]Extent) // contexts whose extents are wanted
	failed  error                     // first error that the server reported

	mu        sync.Mutex
	buf       []byte // where a read goes; nil once abandoned
	lent      bool   // to the reader, which fills buf without mu
	back      sync.Cond
	abandoned bool
	completed bool
	err       error // valid once done is closed
}

// span is [from, to).
type span struct{ from, to uint64 }

// abandon gives the caller its buffers back. If the reader is filling one, interrupt must end that. It reports whether the reply was
// complete before.
func (k *call) abandon(interrupt func()) (completed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	completed = k.completed
	k.abandoned = true
	k.buf = nil
	if k.lent {
		interrupt()
	}
	for k.lent {
		k.back.Wait()
	}
	return completed
}

// lend is the part of the caller's buffer from at on, of n bytes, for the reader to fill; nil if the caller has gone. takeBack follows.
func (k *call) lend(at, n uint64) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.buf == nil {
		return nil
	}
	k.lent, k.back.L = true, &k.mu
	return k.buf[at : at+n]
}

// takeBack ends lend. If the caller went meanwhile, resume undoes its interrupt.
func (k *call) takeBack(resume func()) (interrupted bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.abandoned {
		resume()
	}
	k.lent = false
	k.back.Broadcast()
	return k.abandoned
}

// complete wakes the caller.
func (k *call) complete() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = k.failed
	k.completed = true
	if k.done != nil {
		close(k.done)
	}
}

// deliver copies a part of a read's data to the caller, who may have gone.
func (k *call) deliver(at uint64, p []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.buf != nil {
		copy(k.buf[at:], p)
	}
}

// deliverZeroes is deliver for a hole.
func (k *call) deliverZeroes(at, n uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.buf != nil {
		clear(k.buf[at : at+n])
	}
}

// cover notes that [from, to) of a read has been delivered. It reports false if some of it was before, or if the server sends
// crumbs.
func (k *call) cover(from, to uint64) bool {
	i, _ := slices.BinarySearchFunc(k.covered, from, func(s span, at uint64) int {
		if s.from < at {
			return -1
		}
		return 1
	})
	if i > 0 && k.covered[i-1].to > from || i < len(k.covered) && k.covered[i].from < to {
		return false
	}
	left := i > 0 && k.covered[i-1].to == from
	right := i < len(k.covered) && k.covered[i].from == to
	switch {
	case left && right:
		k.covered[i-1].to = k.covered[i].to
		k.covered = slices.Delete(k.covered, i, i+1)
	case left:
		k.covered[i-1].to = to
	case right:
		k.covered[i].from = from
	default:
		k.covered = slices.Insert(k.covered, i, span{from, to})
	}
	return len(k.covered) <= maxGaps
}

// whole reports whether all of a read has been delivered.
func (k *call) whole() bool { return len(k.covered) == 1 && k.covered[0] == span{0, k.n} }
