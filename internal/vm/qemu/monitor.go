package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/qemu/cmdline"
	"github.com/rephub/rephub/qmp"
)

// Monitor is a way to one QEMU's monitor. All methods may be called at once.
type Monitor interface {
	// Execute runs a command, as qmp.Client's does. QEMU gets commands in the
	// order of the calls; one whose caller has given up may still run, before
	// those that come after it. The error is *qmp.Error when QEMU refused, and
	// Err's when the monitor is lost.
	Execute(ctx context.Context, cmd string, args, result any) error
	// Settle returns when all that QEMU had told before it sent the replies that
	// the caller has seen was recorded.
	Settle(ctx context.Context) error
	// Subscribe is qmp.Feed's.
	Subscribe(size int) *qmp.Subscription
	// Instance is vm.Identity's.
	Instance(ctx context.Context) (string, error)
	// About tells what somebody other than QEMU has arranged for it.
	About(ctx context.Context) (About, error)
	// Definition is what the VM was started from: Argv with its NICs, or Domain with them.
	Definition(ctx context.Context) (vm.Definition, error)
	// Done is closed when the monitor is lost.
	Done() <-chan struct{}
	// Err is nil until Done is closed, then one that is vm.ErrGone or vm.ErrLost.
	Err() error
	// Close may be called twice.
	Close() error
}

// About is what a manager of VMs knows of one; all of it may be empty.
type About struct {
	// Disks are people's names of disks by device id.
	Disks map[string]string
	// SocketDir is where this QEMU may make sockets, also when it is confined.
	SocketDir string
}

// socket is the monitor at a QMP socket.
type socket struct {
	*qmp.Client
	conn net.Conn
}

// dialSocket connects; record hears every event before any later reply is given.
func dialSocket(ctx context.Context, addr string, cfg Config, record func(qmp.Event)) (Monitor, error) {
	network, address, err := qmp.ParseAddress(addr)
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) {
		return nil, fmt.Errorf("%w: %w", vm.ErrGone, err)
	}
	if err != nil {
		return nil, err
	}
	c, err := qmp.NewClient(ctx, conn, qmp.Options{HandshakeTimeout: cfg.HandshakeTimeout, OnEvent: record})
	if errors.Is(err, qmp.ErrNoGreeting) {
		err = vm.WithHint(err, "QEMU serves one client per monitor: give rephub a -qmp socket of its own")
	}
	if err != nil {
		return nil, err
	}
	return &socket{Client: c, conn: conn}, nil
}

func (s *socket) Execute(ctx context.Context, cmd string, args, result any) error {
	err := s.Client.Execute(ctx, cmd, args, result)
	if errors.Is(err, qmp.ErrConnectionLost) || errors.Is(err, qmp.ErrClosed) {
		return fmt.Errorf("%w: %w", vm.ErrGone, err)
	}
	return err
}

// Settle has nothing to wait for: events and replies come in one stream.
func (s *socket) Settle(context.Context) error { return nil }

func (s *socket) Instance(context.Context) (string, error) { return instanceOf(s.conn), nil }

func (s *socket) About(context.Context) (About, error) { return About{}, nil }

func (s *socket) Definition(context.Context) (d vm.Definition, err error) {
	pid, ok := qemuPID(s.conn)
	if !ok {
		return d, vm.WithHint(errors.New("it is not known which process the monitor belongs to"), "give rephub a monitor on a unix socket of this host")
	}
	line, dir, err := cmdline.OfProcess(int(pid))
	if err != nil {
		return d, err
	}
	nics, err := line.NICs()
	for _, n := range nics {
		d.NICs = append(d.NICs, vm.NIC(n))
	}
	d.Argv, d.Dir = line.Argv(), dir
	return d, err
}

func (s *socket) Err() error {
	if err := s.Client.Err(); err != nil {
		return fmt.Errorf("%w: %w", vm.ErrGone, err)
	}
	return nil
}
