package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/rephub/rephub/nbd"
)

// tapped is a recorder process seen from outside, with a socket path that fio
// can be pointed at.
type tapped struct {
	*server
	in     io.WriteCloser
	out    *bufio.Scanner
	socket string
	offered
	door   net.Listener
	void   uint64 // writes that were answered and not recorded
	keeper int    // its process
}

// startTap starts a keeper and a recorder below dir.
func startTap(dir string, size int64) (*tapped, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	s := newServer(self, "-role", "record", dir, strconv.FormatInt(size, 10))
	t := &tapped{server: s, socket: filepath.Join(dir, "door.sock")}
	if t.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	t.out = bufio.NewScanner(out)
	if err := s.start(); err != nil {
		return nil, err
	}
	if err := t.read(&t.offered); err != nil {
		t.end() // only then is all of its standard error there
		return nil, fmt.Errorf("recorder: %w: %s", err, s.stderr.String())
	}
	if err := t.openDoor(size); err != nil {
		t.end()
		return nil, err
	}
	return t, nil
}

// openDoor makes a token usable for fio, which connects twice: once to ask for
// the size, once to work. A token is good for one connection. So the first
// caller at t.socket meets a server of ours that knows the size, and by the
// time it is answered the path is a link to the keeper's own socket. What is
// measured is a direct connection.
func (t *tapped) openDoor(size int64) error {
	l, err := net.Listen("unix", t.socket)
	if err != nil {
		return err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	t.door = l
	srv, err := nbd.NewServer(doorman{t.Token, size}, nbd.ServerConfig{})
	if err != nil {
		return err
	}
	go func() {
		defer srv.Close()
		conn, err := l.Accept()
		if err != nil {
			return
		}
		link := t.socket + ".new"
		if os.Symlink(t.offered.Socket, link) != nil || os.Rename(link, t.socket) != nil {
			_ = conn.Close()
			return
		}
		_ = srv.ServeConn(context.Background(), conn)
	}()
	return nil
}

func (t *tapped) uri() string { return unixURI(t.socket, t.Token) }

func (t *tapped) read(into any) error {
	if !t.out.Scan() {
		return errors.Join(errors.New("it ended"), t.out.Err())
	}
	return json.Unmarshal(t.out.Bytes(), into)
}

// progress asks how far the journal is.
func (t *tapped) progress() (progress, error) {
	var p progress
	if _, err := io.WriteString(t.in, "\n"); err != nil {
		return p, err
	}
	if err := t.read(&p); err != nil {
		return p, err
	}
	t.keeper = p.Keeper
	if p.Err != "" {
		return p, errors.New(p.Err)
	}
	return p, nil
}

// settle waits until every write so far is durable and returns how long that
// took. Writes that went void are counted: those are not in the journal.
func (t *tapped) settle(ctx context.Context, limit time.Duration) (time.Duration, error) {
	began := time.Now()
	first, err := t.progress()
	if err != nil {
		return 0, err
	}
	for p := first; p.Durable < first.Assigned; {
		if time.Since(began) > limit {
			return 0, fmt.Errorf("%d writes are not durable after %s", first.Assigned-p.Durable, limit)
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
		if p, err = t.progress(); err != nil {
			return 0, err
		}
	}
	t.void += first.Void
	return time.Since(began), nil
}

// end stops the recorder, and waits for the keeper, which goes by itself when
// nobody needs it.
func (t *tapped) end() {
	if t.door != nil {
		_ = t.door.Close()
	}
	_ = t.in.Close()
	t.stop()
	if t.keeper == 0 {
		return
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); syscall.Kill(t.keeper, 0) == nil; <-tick.C {
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "  the keeper does not end; killing %d\n", t.keeper)
			_ = syscall.Kill(t.keeper, syscall.SIGKILL)
			return
		}
	}
}

// doorman answers the question for the size and nothing else.
type doorman struct {
	token string
	size  int64
}

func (d doorman) List(context.Context) ([]string, error) { return nil, nil }

func (d doorman) Info(_ context.Context, name string) (nbd.ExportInfo, error) {
	return nbd.ExportInfo{Size: d.size}, nil
}

func (d doorman) Open(_ context.Context, _ string, _ nbd.ConnInfo) (nbd.Backend, nbd.ExportInfo, error) {
	return sizeOnly{}, nbd.ExportInfo{Size: d.size}, nil
}

// sizeOnly is an export that nobody reads or writes.
type sizeOnly struct{}

var errSizeOnly = errors.New("this export has a size and no data")

func (sizeOnly) ReadAt(context.Context, []byte, int64) error { return errSizeOnly }
func (sizeOnly) WriteAt(context.Context, []byte, int64, nbd.CommandFlags) error {
	return errSizeOnly
}
func (sizeOnly) WriteZeroes(context.Context, int64, int64, nbd.CommandFlags) error {
	return errSizeOnly
}
func (sizeOnly) Trim(context.Context, int64, int64, nbd.CommandFlags) error { return errSizeOnly }
func (sizeOnly) Flush(context.Context) error                                { return nil }
func (sizeOnly) Close() error                                               { return nil }
