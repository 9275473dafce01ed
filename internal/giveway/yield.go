package giveway

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// tooLong is what no VM needs for the requests it has; whoever keeps a processor that long computes.
	tooLong = 20 * time.Millisecond
	// insist is for how long nobody is let through after that, at first and at most; it doubles as long as it happens again at once.
	insist, insistMost = 5 * time.Second, 10 * time.Minute
)

// gate says whether to yield now. It knows nothing but how long yields took.
type gate struct {
	closed atomic.Int64 // until when, since began; ns
	last   atomic.Int64 // for how long it was closed; ns
}

var (
	began = time.Now()
	pass  gate
	// yields is set by Begin.
	yields atomic.Bool
)

// Yield lets whoever waits for this thread's processor have it for a moment: a call between two pieces of work of 0.1 ms or so. It does nothing in a
// process that did not Begin, costs less than 1 µs where nobody waits, and takes longer on a busy host, but ever more rarely.
//
// Linux makes a thread that yields pay with a slice of its share, and the slices of this process are long. So a VM's requests, which are short, go first all the time;
// and on a host where somebody computes, a yield takes long, and there are none for a while: this process gets its share like everybody.
func Yield() {
	if yields.Load() {
		pass.yield(func() time.Duration { return time.Since(began) }, func() { unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) })
	}
}

func (g *gate) yield(now func() time.Duration, let func()) {
	from, opened := now(), time.Duration(g.closed.Load())
	if from < opened {
		return
	}
	let()
	to := now()
	if to-from <= tooLong {
		return
	}
	closed := insist
	if last := time.Duration(g.last.Load()); from < opened+last {
		closed = min(2*last, insistMost)
	}
	// Of several threads that were late together one closes it.
	if g.closed.CompareAndSwap(int64(opened), int64(to+closed)) {
		g.last.Store(int64(closed))
	}
}
