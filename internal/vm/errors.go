package vm

import (
	"errors"
	"fmt"
)

// Errors callers branch on.
var (
	// ErrGone: the instance ended, or its monitor closed the connection.
	ErrGone = errors.New("the VM's monitor is gone")
	// ErrLost: the way to the VM's monitor is lost and nobody knows whether the
	// VM runs; another try may reach the same instance.
	ErrLost = errors.New("the way to the VM's monitor is lost")
	// ErrRefused: the hypervisor is known to crash or to lose writes if we
	// went on; the hint says what to change.
	ErrRefused = errors.New("refused for this hypervisor")
	// ErrTooOld: the hypervisor lacks something we cannot do without.
	ErrTooOld = errors.New("the hypervisor is too old")
	// ErrServerRunning: the VM's NBD server was started by somebody else, and
	// the hypervisor does not tell where it listens.
	ErrServerRunning = errors.New("the VM's NBD server is already running elsewhere")
	// ErrBusy: the volume is used by another job, an export by its client.
	ErrBusy = errors.New("busy")
	// ErrNoVolume: no volume has this node name now.
	ErrNoVolume = errors.New("no such volume")
)

// HintError adds what the user can do to an error.
type HintError struct {
	Err  error
	hint string
}

// WithHint adds a hint to err.
func WithHint(err error, hint string) error { return &HintError{Err: err, hint: hint} }

func (e *HintError) Error() string { return e.Err.Error() }

// Unwrap gives the error without its hint.
func (e *HintError) Unwrap() error { return e.Err }

// Hint is one sentence for the user.
func (e *HintError) Hint() string { return e.hint }

// Reason says why a group is not whole.
type Reason string

// Reasons of NotWholeError.
const (
	ReasonTapFailed Reason = "tap-failed" // the tap's job reported an error
	ReasonTapGone   Reason = "tap-gone"   // the tap's job is no longer there
	ReasonMigrated  Reason = "migrated"   // the VM goes or went to another host
)

// NotWholeError: writes may have missed a tap since it was last whole.
type NotWholeError struct {
	Reason Reason
	Tap    Tap
	Detail string
}

func (e *NotWholeError) Error() string {
	return fmt.Sprintf("tap %s of volume %s is not whole: %s: %s", e.Tap.Job, e.Tap.Volume, e.Reason, e.Detail)
}

// BypassError: User writes to the volume and goes around our tap. Without a Tap it
// has gone again, and may have written to any volume of the VM.
type BypassError struct {
	Tap  Tap
	User string
}

func (e *BypassError) Error() string {
	if e.Tap == (Tap{}) {
		return e.User + " came and went unseen and may have written around the taps; what it wrote is found by comparing"
	}
	return fmt.Sprintf("%s uses volume %s around its tap", e.User, e.Tap.Volume)
}

// Hint is one sentence for the user.
func (e *BypassError) Hint() string {
	if e.Tap == (Tap{}) {
		return "it goes on by itself; pause the group for work on its volumes in the hypervisor"
	}
	return "remove it, or add it before the protection starts: what it writes is not protected"
}
