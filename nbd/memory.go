package nbd

// grown reports whether the worker holds more than an idle connection needs.
func (w *worker) grown() bool { return w.in.mem.big != nil || w.mem.big != nil || w.payload != nil }

// shrinkIdle gives memory back when an idle connection waits for a request.
func (w *worker) shrinkIdle() {
	if w.in.buffered() == 0 && !w.busy {
		w.shrink()
	}
}

// shrink gives back the memory that holds nothing. Called between requests.
func (w *worker) shrink() {
	b := w.s.srv.budget
	if w.in != nil && w.in.buffered() == 0 {
		w.in.release(b)
	}
	if len(w.out) == w.sent {
		w.mem.shrink(b)
		w.out, w.sent = w.mem.bytes()[:0], 0
	}
	if w.payload != nil {
		b.give(cap(w.payload))
		w.payload = nil
	}
	w.extents = nil
}

// dropInput parts with input that another leader has a copy of.
func (w *worker) dropInput() {
	if w.in != nil {
		w.in.release(w.s.srv.budget)
		w.in = nil
	}
}

// release gives everything back when the worker is done.
func (w *worker) release() {
	w.dropInput()
	w.out, w.sent = nil, 0
	w.shrink()
	w.s.lead.workers.Add(-1)
}

// reserve makes w.payload n bytes long, if the budget allows. w.payload must not be in use.
func (w *worker) reserve(n int) bool {
	if cap(w.payload) < n {
		b := w.s.srv.budget
		b.give(cap(w.payload))
		w.payload = nil
		size := max(bigBuffer, (n+bigBuffer-1)&^(bigBuffer-1))
		if !b.take(size) {
			return false
		}
		w.payload = make([]byte, size)
	}
	w.payload = w.payload[:n]
	return true
}

// room makes space for n bytes behind the replies, in a big buffer if need be. It reports whether there is.
func (w *worker) room(n int) (bool, error) {
	if cap(w.out)-len(w.out) >= n {
		return true, nil
	}
	if w.mem.big == nil && w.mem.grow(w.s.srv.budget) {
		w.out = append(w.mem.bytes()[:0], w.out...)
	}
	if cap(w.out)-len(w.out) >= n {
		return true, nil
	}
	if err := w.flush(); err != nil {
		return false, err
	}
	return cap(w.out) >= n, nil
}

// inPayload reports whether p is the memory of w.payload, not of the input.
func (w *worker) inPayload(p []byte) bool { return len(w.payload) > 0 && &p[0] == &w.payload[0] }
