package nbd

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxWorkers  = 16          // goroutines of one connection
	standbyTime = time.Second // how long a worker without the lead waits for it
	slowCall    = 300 * time.Microsecond
	slowCredit  = 32 // fast calls that make up for a slow one
	maxCredit   = 256
)

// session is the transmission phase of one connection.
//
// One worker at a time has the lead: it reads requests, calls the backend in place and sends the replies. If the export is
// concurrent and the leader sits in a backend call for longer than a tick, the watchdog takes the lead away from it and gives
// it, with a copy of the unread input and the unsent replies, to another worker. After that the lead is handed on *before* each
// backend call while calls are slow, so that throughput does not depend on the tick:
//
//	leading ──begin──▶ calling ──end──▶ leading
//	                      │ stolen by the watchdog
//	                      ▼
//	                  demoted ──call returns──▶ replies ──▶ standby ──lead arrives──▶ leading
//	                                                          └──nothing for standbyTime──▶ gone
type session struct {
	*conn
	sock       *socket // rw, if that is plain and can be read past the runtime
	backend    Backend
	status     BlockStatuser
	ctxs       ContextStatuser
	cacher     Cacher
	info       ExportInfo
	flags      TransmissionFlags
	extended   bool
	structured bool // structured replies
	contexts   []metaContext
	allowed    [9]CommandFlags // by command; the last is for unknown ones

	stop context.CancelFunc // ends the backend calls, set by run
	wmu  sync.Mutex         // held while bytes of one reply, or of one run of replies, are written
	lead leadership

	activity atomic.Uint64 // reads so far
	big      atomic.Bool   // buffers may have grown since the watchdog's last look
	watched  watched       // the watchdog's own notes
}

// leadership is what passes the lead around.
type leadership struct {
	// turn is even while the leader works outside the backend and odd during a call; every call has a number of its own.
	// Whoever changes an odd turn to the next even one has the lead: the leader at the end of its call, or the watchdog.
	turn    atomic.Uint64
	leader  *worker      // valid for whoever has the lead
	theft   sync.Mutex   // held while the watchdog copies what belongs to the old leader
	credit  atomic.Int32 // above 0 calls are timed and the lead is handed on
	standby atomic.Int32
	workers atomic.Int32
	offer   chan handover
	quit    chan struct{} // closed when the last leader ends
	err     error         // why it ended; read after all workers are gone
	wg      sync.WaitGroup
}

// handover is the lead with what belongs to it.
type handover struct {
	in  *input
	out []byte // replies to send first
}

func newSession(h *handshake, backend Backend, info ExportInfo, contexts []metaContext) *session {
	s := &session{conn: h.conn, backend: backend, info: info, contexts: contexts, structured: h.structured, extended: h.extended}
	if s.rw == s.raw {
		if s.sock = newSocket(s.raw, s.srv.pollers); s.sock != nil {
			s.rw = s.sock
		}
	}
	s.flags = info.flags(s.chunked())
	if s.extended && len(contexts) > 0 {
		s.flags |= BlockStatusPayload
	}
	s.status, _ = backend.(BlockStatuser)
	s.ctxs, _ = backend.(ContextStatuser)
	s.cacher, _ = backend.(Cacher)
	for cmd := range s.allowed {
		s.allowed[cmd] = s.allowedFlags(command(cmd))
	}
	s.lead.offer = make(chan handover)
	s.lead.quit = make(chan struct{})
	return s
}

// chunked reports whether replies with data are made of chunks.
func (s *session) chunked() bool { return s.structured || s.extended }

// run serves requests until the connection ends and every backend call has returned.
func (s *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.stop = cancel
	s.srv.watch.add(ctx, s)
	in := s.in
	s.in = nil
	s.lead.workers.Add(1)
	newWorker(s).work(ctx, handover{in: in})
	<-s.lead.quit
	s.srv.watch.remove(s) // from here on nobody starts workers
	s.lead.wg.Wait()
	return s.lead.err
}

// end is called by the last leader. Requests in other workers' hands are still answered, unless the peer is gone.
func (s *session) end(err error) {
	if !errors.Is(err, errDisc) && !errors.Is(err, errDrained) {
		s.stop()
	}
	if errors.Is(err, errDisc) {
		err = nil
	}
	s.lead.err = err
	close(s.lead.quit)
}

// steal takes the lead away from a worker that has been in the same backend call since the watchdog's last look, and gives it
// to another. It reports whether it did. Called by the watchdog only.
func (s *session) steal(ctx context.Context, turn uint64) bool {
	l := &s.lead
	l.theft.Lock()
	defer l.theft.Unlock()
	if l.standby.Load() == 0 && l.workers.Load() >= maxWorkers || !l.turn.CompareAndSwap(turn, turn+1) {
		return false
	}
	from := l.leader
	l.credit.CompareAndSwap(0, 1) // so that calls are timed
	h := handover{in: newInput(), out: append([]byte(nil), from.out[from.sent:]...)}
	rest := from.in.mem.bytes()[from.in.r:from.in.w]
	if len(rest) > smallBuffer {
		h.in.mem.growAnyway(s.srv.budget)
	}
	h.in.w = copy(h.in.mem.bytes(), rest)
	select {
	case l.offer <- h:
	default:
		l.workers.Add(1)
		l.wg.Go(func() { newWorker(s).work(ctx, h) })
	}
	return true
}

// errDisc ends a session on NBD_CMD_DISC.
var errDisc = errors.New("client disconnects")

// fill reads more requests for the leader w.
func (s *session) fill(w *worker) error {
	for {
		if !s.big.Load() && w.grown() {
			s.big.Store(true)
			s.srv.watch.noticeBig()
		}
		s.expectRest(w.busy || w.in.buffered() > 0)
		n, err := w.in.fill(s.rw)
		s.activity.Add(1)
		if n > 0 {
			return nil
		}
		if err == nil {
			continue
		}
		if err = s.interrupted(w, err); err != nil {
			return err
		}
	}
}

// expectRest says whether the next read is for the rest of a request, which is on its way.
func (s *session) expectRest(yes bool) {
	if s.sock != nil {
		s.sock.partial = yes
	}
}

// interrupted decides whether a read that failed is to be repeated (nil).
func (s *session) interrupted(w *worker, err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return s.woken(w)
	case errors.Is(err, io.EOF) && (w.busy || w.in.buffered() > 0):
		return io.ErrUnexpectedEOF
	}
	return err
}

// woken handles a read that was interrupted by Shutdown or by the watchdog.
func (s *session) woken(w *worker) error {
	if s.shrink.CompareAndSwap(true, false) {
		s.raw.SetReadDeadline(time.Time{})
		w.shrinkIdle()
	}
	if s.draining.Load() { // after the deadline was reset: drain sets the flag first
		return errDrained
	}
	return nil
}

// write sends p whole. Replies of one call are not torn apart by those of other workers.
func (s *session) write(p []byte) error {
	s.wmu.Lock()
	_, err := s.rw.Write(p)
	s.wmu.Unlock()
	if err != nil {
		s.cancel(err)
	}
	return err
}

// gather is where several buffers go with one system call.
func (s *session) gather() net.Conn {
	if s.sock != nil {
		return s.raw
	}
	return s.rw
}

// writeBuffers is write for a header and a payload in two pieces.
func (s *session) writeBuffers(bufs *net.Buffers) error {
	s.wmu.Lock()
	_, err := bufs.WriteTo(s.gather())
	s.wmu.Unlock()
	if err != nil {
		s.cancel(err)
	}
	return err
}
