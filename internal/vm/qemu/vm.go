// Package qemu is vm.VM for stock QEMU over QMP: it knows which commands in
// which order keep QEMU alive, and refuses what is known to kill it.
//
// What it relies on is measured and written down in docs/qemu.md.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/qmp"
)

// Config of a connection. The zero value is usable.
type Config struct {
	// HandshakeTimeout bounds the QMP handshake; 0 means 5 s.
	HandshakeTimeout time.Duration
	// RollbackTimeout bounds taking back a failed attach, whose own context
	// may have ended; 0 means 10 s.
	RollbackTimeout time.Duration
	// Logger receives what callers cannot be told; nil: nothing is logged.
	Logger *slog.Logger
}

func (c *Config) ensureDefaults() {
	if c.RollbackTimeout <= 0 {
		c.RollbackTimeout = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// VM is a QEMU that a monitor leads to.
type VM struct {
	addr      string
	cfg       Config
	mon       Monitor
	id        vm.Identity
	traits    traits
	jobs      *jobLog
	strangers *strangers
	reader    readerState
	// attaching holds one element while an attach runs: two of them could not
	// tell whose pause of the VM it is.
	attaching chan struct{}
	// owesResume: a pause of ours could not be ended yet.
	owesResume atomic.Bool
}

var _ vm.VM = (*VM)(nil)

// Open connects to a QMP socket, "unix:PATH" or "tcp:HOST:PORT". A VM that an
// earlier attach of ours left paused goes on.
func Open(ctx context.Context, addr string, cfg Config) (*VM, error) {
	return New(ctx, addr, cfg, func(ctx context.Context, record func(qmp.Event)) (Monitor, error) {
		return dialSocket(ctx, addr, cfg, record)
	})
}

// Dial makes a Monitor that calls record for every event, one at a time, before
// Execute or Settle tells what QEMU did later. record does not block.
type Dial func(ctx context.Context, record func(qmp.Event)) (Monitor, error)

// New is Open by any way to a monitor; addr tells it from other VMs' monitors.
func New(ctx context.Context, addr string, cfg Config, dial Dial) (*VM, error) {
	cfg.ensureDefaults()
	v := &VM{addr: addr, cfg: cfg, jobs: newJobLog(), strangers: newStrangers(), attaching: make(chan struct{}, 1)}
	var err error
	if v.mon, err = dial(ctx, v.record); err != nil {
		return nil, fmt.Errorf("open monitor %s: %w", addr, err)
	}
	if err = v.identify(ctx); err == nil {
		err = v.endForgottenPause(ctx)
	}
	if err != nil {
		v.Close()
		return nil, fmt.Errorf("open monitor %s: %w", addr, err)
	}
	return v, nil
}

func (v *VM) identify(ctx context.Context) error {
	var version struct {
		QEMU    struct{ Major, Minor, Micro int }
		Package string
	}
	if err := v.do(ctx, "query-version", nil, &version); err != nil {
		return err
	}
	v.id.Version = vm.Version{Major: version.QEMU.Major, Minor: version.QEMU.Minor, Micro: version.QEMU.Micro, Package: version.Package}
	var err error
	if v.traits, err = traitsOf(v.id.Version); err != nil {
		return err
	}
	var uuid struct {
		UUID string `json:"UUID"`
	}
	if err := v.do(ctx, "query-uuid", nil, &uuid); err != nil {
		return err
	}
	if strings.Trim(uuid.UUID, "0-") != "" {
		v.id.UUID = uuid.UUID
	}
	var name struct {
		Name string `json:"name"`
	}
	if err := v.do(ctx, "query-name", nil, &name); err != nil {
		return err
	}
	v.id.Name = name.Name
	v.id.Instance, err = v.mon.Instance(ctx)
	return err
}

// Identity implements vm.Machine.
func (v *VM) Identity() vm.Identity { return v.id }

// RunState implements vm.Machine.
func (v *VM) RunState(ctx context.Context) (vm.RunState, error) {
	var s struct {
		Status vm.RunState `json:"status"`
	}
	err := v.do(ctx, "query-status", nil, &s)
	return s.Status, err
}

// Done implements vm.Machine.
func (v *VM) Done() <-chan struct{} { return v.mon.Done() }

// Err implements vm.Machine.
func (v *VM) Err() error { return v.mon.Err() }

// Close implements vm.Machine.
func (v *VM) Close() error { return v.mon.Close() }

// args of a command.
type args map[string]any

// do runs a command.
func (v *VM) do(ctx context.Context, cmd string, a args, result any) error {
	return v.mon.Execute(ctx, cmd, a, result)
}

// qemuSays tells whether err is QEMU's own refusal with these words in it.
// QEMU has one class for nearly all errors, so the words must do.
func qemuSays(err error, words string) bool {
	var e *qmp.Error
	return errors.As(err, &e) && strings.Contains(e.Desc, words)
}
