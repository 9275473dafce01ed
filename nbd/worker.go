package nbd

import (
	"context"
	"net"
	"time"
)

// worker serves requests of one session: see session for how workers share it. Its fields belong to its goroutine; while the
// lead is being taken away during a backend call, the watchdog reads in and out, which the worker does not change then.
type worker struct {
	s    *session
	in   *input // the session's unread requests; of another leader after the lead is lost
	led  bool   // has the lead
	turn uint64 // of the last call

	mem  buffer // behind out
	out  []byte // replies; those before sent are no longer ours
	sent int

	payload []byte // payload too large for the input or output buffer, counted in the budget
	extents []extent
	query   statusQuery
	busy    bool      // a request's header has been consumed, its payload not
	vec     [2][]byte // backs net.Buffers
}

func newWorker(s *session) *worker {
	w := &worker{s: s, mem: newBuffer()}
	w.out = w.mem.bytes()[:0]
	return w
}

// work leads from h on, and takes the lead again whenever it is offered, until the session ends.
func (w *worker) work(ctx context.Context, h handover) {
	defer w.release()
	for {
		w.take(h)
		err := w.loop(ctx)
		if w.led {
			if ferr := w.flush(); err == nil {
				err = ferr
			}
			w.led = false
			w.s.end(err)
			return
		}
		w.dropInput()
		var ok bool
		if h, ok = w.await(); !ok {
			return
		}
	}
}

// take assumes the lead.
func (w *worker) take(h handover) {
	l := &w.s.lead
	w.in, w.led, l.leader = h.in, true, w
	w.turn = l.turn.Load()
	if len(h.out) > 0 {
		w.s.write(h.out) // an error cuts the connection
	}
}

// await waits for an offer of the lead.
func (w *worker) await() (handover, bool) {
	l := &w.s.lead
	timer := time.NewTimer(standbyTime)
	defer timer.Stop()
	l.standby.Add(1)
	defer l.standby.Add(-1)
	select {
	case h := <-l.offer:
		return h, true
	case <-l.quit:
	case <-timer.C:
	}
	return handover{}, false
}

// loop serves requests while this worker leads. It returns an error with the lead in hand at the end of the session, and nil
// without the lead when that was lost and its last request is answered.
func (w *worker) loop(ctx context.Context) error {
	for w.led {
		r, err := w.next()
		if err != nil {
			return err
		}
		w.busy = true
		if err := w.serve(ctx, &r); err != nil {
			return err
		}
		w.busy = false
		if !w.led || len(w.out)-w.sent >= flushAt {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// next returns the header of the next request.
func (w *worker) next() (request, error) {
	size := requestSize
	if w.s.extended {
		size = extRequestSize
	}
	if err := w.need(size); err != nil {
		return request{}, err
	}
	r, ok := parseRequest(w.in.next(size), w.s.extended)
	if !ok {
		return r, violation("request magic")
	}
	if r.cmd == cmdDisc {
		return r, errDisc
	}
	return r, nil
}

// need buffers n bytes of input in one piece, or returns errNoRoom. Replies go out before it waits.
func (w *worker) need(n int) error {
	if w.in.buffered() >= n {
		return nil
	}
	if !w.in.makeRoom(n, w.s.srv.budget) {
		return errNoRoom
	}
	for w.in.buffered() < n {
		if err := w.flush(); err != nil {
			return err
		}
		if err := w.s.fill(w); err != nil {
			return err
		}
		if w.in.w == smallBuffer && w.in.mem.big == nil {
			w.in.grow(w.s.srv.budget) // there is more to come
		}
	}
	return nil
}

// begin marks the start of a backend call, at the end of which the lead may be gone. Called with the lead.
func (w *worker) begin() {
	w.turn++
	w.s.lead.turn.Store(w.turn)
	w.s.srv.watch.notice()
}

// end marks the end of a backend call.
func (w *worker) end() {
	if w.s.lead.turn.CompareAndSwap(w.turn, w.turn+1) {
		w.turn++
		return
	}
	w.s.lead.theft.Lock()   // until the watchdog has its copies
	w.s.lead.theft.Unlock() //nolint:staticcheck // nothing to do inside
	w.led = false
	w.sent = len(w.out) // the new leader has these; the reply to this call is not among them yet
}

// yield hands the lead to a waiting worker before a backend call, if recent calls were slow. data is the payload of the
// request at hand, and is returned in a place that stays valid.
func (w *worker) yield(data []byte) []byte {
	l := &w.s.lead
	if l.credit.Load() <= 0 || l.standby.Load() == 0 || !w.led {
		return data
	}
	if len(data) > 0 && !w.inPayload(data) {
		if !w.reserve(len(data)) {
			return data
		}
		data = w.payload[:copy(w.payload, data)]
	}
	in := w.in
	select {
	case l.offer <- handover{in: in}:
		w.in, w.led = nil, false
		w.flush() // an error cuts the connection, which the leader sees
	default:
	}
	return data
}

// call makes the backend call of a request, with the lead at stake. p is the payload, or where it goes.
func (w *worker) call(ctx context.Context, r *request, p []byte) error {
	if !w.s.info.Concurrent {
		return w.invoke(ctx, r, p)
	}
	l := &w.s.lead
	slow := l.credit.Load() > 0
	var start time.Time
	if slow {
		start = time.Now()
	}
	if w.led {
		w.begin()
	}
	err := w.invoke(ctx, r, p)
	if w.led {
		w.end()
	}
	switch {
	case !slow:
	case time.Since(start) >= slowCall:
		l.credit.Store(min(l.credit.Load()+slowCredit, maxCredit)) // what another worker does meanwhile may be lost
	default:
		l.credit.Store(max(l.credit.Load()-1, 0))
	}
	return err
}

// flush sends the replies.
func (w *worker) flush() error {
	if len(w.out) == w.sent {
		w.out, w.sent = w.out[:0], 0
		return nil
	}
	err := w.s.write(w.out[w.sent:])
	w.out, w.sent = w.out[:0], 0
	return err
}

// flushWith sends the replies and data behind them.
func (w *worker) flushWith(data []byte) error {
	w.vec = [2][]byte{w.out[w.sent:], data}
	bufs := net.Buffers(w.vec[:])
	err := w.s.writeBuffers(&bufs)
	w.vec = [2][]byte{}
	w.out, w.sent = w.out[:0], 0
	return err
}
