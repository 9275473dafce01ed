package keeper

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxSessions  = 16
	maxQueue     = 8192            // messages down that wait for a controller
	writeTimeout = 2 * time.Second // for one message, then the controller counts as hung and is let go
)

// session is one connection to the control socket: a goroutine that reads and obeys, and one that writes. Nobody ever waits for a
// session's peer but these two.
type session struct {
	k    *keeper
	conn *net.UnixConn

	out struct {
		sync.Mutex
		queue   []outgoing
		closing bool // end when the queue is empty
		dead    bool
	}
	wake chan struct{}
}

// outgoing is a line with the descriptors to go with it, which it owns.
type outgoing struct {
	line []byte
	fds  []int
}

// serveControl accepts sessions until ctx ends, and waits for them.
func (k *keeper) serveControl(ctx context.Context, l *net.UnixListener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.SetDeadline(time.Unix(1, 0)) })()
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED) {
				k.log.Warn("accept controller", "err", err)
				select {
				case <-time.After(100 * time.Millisecond):
				case <-ctx.Done():
				}
				continue
			}
			return err
		}
		s := &session{k: k, conn: conn, wake: make(chan struct{}, 1)}
		if err := s.admit(); err != nil {
			k.log.Warn("refuse controller", "err", err)
			conn.Close()
			continue
		}
		wg.Go(func() { s.run(ctx) })
	}
}

// admit checks who it is and whether there is room, and registers the session.
func (s *session) admit() error {
	cred, err := peerOf(s.conn)
	if err != nil {
		return err
	}
	if me := uint32(os.Geteuid()); cred.Uid != me && cred.Uid != 0 {
		return fmt.Errorf("process %d belongs to user %d", cred.Pid, cred.Uid)
	}
	s.k.mu.Lock()
	defer s.k.mu.Unlock()
	switch {
	case s.k.mu.ending:
		return errUnneeded
	case len(s.k.mu.sessions) >= maxSessions:
		return errors.New("too many controllers")
	}
	s.k.mu.sessions[s] = struct{}{}
	return nil
}

// peerOf tells who is at the other end.
func peerOf(c *net.UnixConn) (*unix.Ucred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("peer credentials: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, credErr); err != nil {
		return nil, fmt.Errorf("peer credentials: %w", err)
	}
	return cred, nil
}

// run serves the session until either side ends it.
func (s *session) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { s.conn.Close() })
	defer stop()
	s.send(message{Event: eventHello, Version: protocolVersion, PID: os.Getpid()})
	var wg sync.WaitGroup
	wg.Go(s.write)
	err := s.read()
	s.k.mu.Lock()
	delete(s.k.mu.sessions, s)
	if s.k.mu.controller == s {
		s.k.mu.controller = nil
	}
	s.k.mu.idleSince = time.Now()
	s.k.mu.Unlock()
	s.end(false)
	wg.Wait()
	s.conn.Close()
	s.k.log.Debug("controller left", "err", err)
}

// read obeys one request after the other. A line that is no request ends the session: who sends one is not to be trusted with taps.
func (s *session) read() error {
	in := bufio.NewReaderSize(s.conn, maxRequest)
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		r, err := decodeRequest(line)
		if err != nil && r.ID == 0 {
			s.k.log.Warn("controller sent garbage", "err", err)
			s.send(message{Event: "error", Error: err.Error(), Code: codeOf(err)})
			s.end(false)
			return err
		}
		var m message
		var fds []int
		if err == nil {
			m, fds, err = s.k.obey(s, r)
		}
		m.ID = r.ID
		if err != nil {
			m = message{ID: r.ID, Error: err.Error(), Code: codeOf(err)}
		}
		if r.Op == opClaim && err == nil {
			continue // replied to in the order of events
		}
		s.send(m, fds...)
	}
}

// send queues a message; it owns the descriptors. It never blocks: a peer that does not read is let go.
func (s *session) send(m message, fds ...int) {
	m.FDs = len(fds)
	line, err := json.Marshal(m)
	if err != nil { // a broken invariant: messages are plain data
		panic(fmt.Sprintf("encode control message: %v", err))
	}
	s.out.Lock()
	defer s.out.Unlock()
	if s.out.dead || s.out.closing || len(s.out.queue) >= maxQueue {
		closeAll(fds)
		if len(s.out.queue) >= maxQueue {
			s.out.dead = true
		}
	} else {
		s.out.queue = append(s.out.queue, outgoing{append(line, '\n'), fds})
	}
	s.notify()
}

// end stops the writer: now, or when the queue is empty.
func (s *session) end(now bool) {
	s.out.Lock()
	defer s.out.Unlock()
	s.out.closing = true
	s.out.dead = s.out.dead || now
	s.notify()
}

func (s *session) notify() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// tellTap sends a duplicate of a tap's descriptor. Without one the controller is told nothing: it could not act.
func (s *session) tellTap(t tapConn) {
	fd, err := unix.FcntlInt(uintptr(t.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		s.k.log.Warn("duplicate tap for controller", "group", t.Group, "volume", t.Volume, "err", err)
		return
	}
	s.send(message{Event: eventTap, Conn: t.ID, Group: t.Group, Volume: t.Volume}, fd)
}

// write sends what is queued, until the session ends.
func (s *session) write() {
	defer s.conn.Close() // makes read return
	for {
		s.out.Lock()
		queue, closing, dead := s.out.queue, s.out.closing, s.out.dead
		s.out.queue = nil
		s.out.Unlock()
		for i, o := range queue {
			if !dead {
				dead = s.writeOne(o) != nil
			}
			closeAll(o.fds)
			queue[i] = outgoing{}
		}
		if dead {
			s.end(true)
		}
		if dead || closing && len(queue) == 0 {
			s.drop()
			return
		}
		if len(queue) == 0 {
			<-s.wake
		}
	}
}

// drop closes the descriptors of what will not be sent.
func (s *session) drop() {
	s.out.Lock()
	defer s.out.Unlock()
	s.out.dead = true
	for _, o := range s.out.queue {
		closeAll(o.fds)
	}
	s.out.queue = nil
}

func (s *session) writeOne(o outgoing) error {
	s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	var rights []byte
	if len(o.fds) > 0 {
		rights = unix.UnixRights(o.fds...)
	}
	n, _, err := s.conn.WriteMsgUnix(o.line, rights, nil)
	for err == nil && n < len(o.line) {
		var k int
		k, err = s.conn.Write(o.line[n:])
		n += k
	}
	return err
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
