package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// pulse asks a keeper for signs of life, on a connection of its own and from the thread that calls: no order is before a ping there, and an
// answer that has come is read when it is looked for, however busy this process is.
type pulse struct {
	fd              int
	in              inbox
	greeted         bool   // it was accepted
	asked, answered uint64 // ids of the last ping and of the last answer
}

// openPulse connects to the keeper of a directory, which must be that process. It never waits.
func openPulse(dir string, pid int) (*pulse, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, controlName)}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("connect to keeper: %w", err)
	}
	if cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil || int(cred.Pid) != pid {
		unix.Close(fd)
		return nil, fmt.Errorf("%w: another process is there now", ErrGone)
	}
	return &pulse{fd: fd}, nil
}

// Close ends the connection.
func (p *pulse) Close() error { return unix.Close(p.fd) }

// pending reports whether a ping is without an answer.
func (p *pulse) pending() bool { return p.answered < p.asked }

// ask sends a ping. The socket has room for it: there is never more than one on its way.
func (p *pulse) ask() error {
	line, err := json.Marshal(request{ID: p.asked + 1, Op: opPing})
	if err != nil {
		return fmt.Errorf("encode ping: %w", err)
	}
	n, err := unix.Write(p.fd, append(line, '\n'))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	if n <= len(line) {
		return fmt.Errorf("%w: it reads nothing", ErrGone)
	}
	p.asked++
	return nil
}

// hear takes in what has come.
func (p *pulse) hear() error {
	var buf [1024]byte
	for {
		n, err := unix.Read(p.fd, buf[:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return nil
		case err != nil:
			return fmt.Errorf("%w: %w", ErrGone, err)
		case n == 0:
			return ErrGone
		}
		if err := p.in.add(buf[:n], nil); err != nil {
			return err
		}
		for {
			r, ok, err := p.in.next()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			p.greeted = p.greeted || r.Event == eventHello
			p.answered = max(p.answered, min(r.ID, p.asked))
		}
	}
}
