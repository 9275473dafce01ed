package guest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"time"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/libvirt"
	"github.com/rephub/rephub/qmp"
)

// maxAnswer bounds an answer of a guest, which need not mean well; bytes.
const maxAnswer = 64 << 10

// Error is an agent's own refusal.
type Error struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *Error) Error() string { return fmt.Sprintf("the guest agent says: %.200s", e.Desc) }

// channel leads to the agent of one guest. One goroutine may use it.
type channel interface {
	// sync returns when the agent answers, and old answers are out of the way.
	sync(ctx context.Context) error
	// execute sends a line and returns the answer to it.
	execute(ctx context.Context, line string) ([]byte, error)
	// blind sends lines whose answers nobody reads: an agent that hangs finds them
	// when it goes on.
	blind(lines ...string)
	Close() error
}

// open connects to an address that vm.Guest gave. vm.ErrGone: the VM has ended.
func open(ctx context.Context, address string) (channel, error) {
	if uri, domain, ok := libvirt.ParseAddress(address); ok {
		a, err := libvirt.OpenAgent(ctx, uri, domain)
		if err != nil {
			return nil, err
		}
		return viaLibvirt{a}, nil
	}
	network, addr, err := qmp.ParseAddress(address)
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) {
		return nil, fmt.Errorf("%w: %w", vm.ErrGone, err)
	}
	if err != nil {
		return nil, err
	}
	return &socket{conn: conn, r: bufio.NewReader(conn)}, nil
}

// socket is a chardev's, whose only client we are.
type socket struct {
	conn net.Conn
	r    *bufio.Reader
}

// delimiter ends what an agent was about to read, and begins what it answers to
// guest-sync-delimited; it is in no JSON.
const delimiter = 0xff

func (s *socket) sync(ctx context.Context) error {
	id := rand.Int64N(1 << 50)
	defer s.until(ctx)()
	ask := append([]byte{delimiter}, fmt.Sprintf(`{"execute":"guest-sync-delimited","arguments":{"id":%d}}`+"\n", id)...)
	if _, err := s.conn.Write(ask); err != nil {
		return silent(ctx, err)
	}
	for {
		if err := s.skip(); err != nil {
			return silent(ctx, err)
		}
		p, err := s.line()
		if err != nil {
			return silent(ctx, err)
		}
		var got int64
		if decode(p, &got) == nil && got == id {
			return nil
		}
	}
}

// skip reads up to a delimiter.
func (s *socket) skip() error {
	for {
		b, err := s.r.ReadByte()
		if err != nil || b == delimiter {
			return err
		}
	}
}

func (s *socket) line() ([]byte, error) {
	var p []byte
	for {
		b, err := s.r.ReadByte()
		switch {
		case err != nil:
			return nil, err
		case b == '\n' && len(bytes.TrimSpace(p)) > 0:
			return p, nil
		case len(p) == maxAnswer:
			return nil, fmt.Errorf("the guest agent's answer is longer than %d bytes", maxAnswer)
		}
		p = append(p, b)
	}
}

func (s *socket) execute(ctx context.Context, line string) ([]byte, error) {
	defer s.until(ctx)()
	if _, err := io.WriteString(s.conn, line+"\n"); err != nil {
		return nil, silent(ctx, err)
	}
	p, err := s.line()
	return p, silent(ctx, err)
}

func (s *socket) blind(lines ...string) {
	_ = s.conn.SetDeadline(time.Now().Add(100 * time.Millisecond))
	_, _ = s.conn.Write([]byte{delimiter, '\n'})
	for _, l := range lines {
		_, _ = io.WriteString(s.conn, l+"\n")
	}
}

// until lets reads and writes end with ctx.
func (s *socket) until(ctx context.Context) func() {
	_ = s.conn.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

func (s *socket) Close() error { return s.conn.Close() }

// silent says what it means that nothing came until ctx ended.
func silent(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("the guest agent did not answer in time: %w", ctx.Err())
	case errors.Is(err, io.EOF):
		return errors.New("QEMU hung up the guest agent's port")
	}
	return err
}

// viaLibvirt is libvirt's way; it syncs by itself.
type viaLibvirt struct{ *libvirt.Agent }

func (d viaLibvirt) sync(ctx context.Context) error {
	_, err := d.execute(ctx, `{"execute":"guest-ping"}`)
	return err
}

func (d viaLibvirt) execute(ctx context.Context, line string) ([]byte, error) {
	p, err := d.Agent.Execute(ctx, line)
	return []byte(p), err
}

// blind can do nothing: libvirt sends nothing to an agent that does not answer.
func (viaLibvirt) blind(...string) {}

// decode reads an answer.
func decode(p []byte, result any) error {
	var a struct {
		Return json.RawMessage `json:"return"`
		Error  *Error          `json:"error"`
	}
	if err := json.Unmarshal(p, &a); err != nil {
		return fmt.Errorf("the guest agent's answer is no JSON: %w", err)
	}
	if a.Error != nil {
		return a.Error
	}
	if err := json.Unmarshal(a.Return, result); err != nil {
		return fmt.Errorf("the guest agent's answer is of another kind: %w", err)
	}
	return nil
}
