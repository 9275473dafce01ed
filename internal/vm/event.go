package vm

import (
	"context"
	"time"
)

// EventKind says what happened.
type EventKind string

// What a subscriber hears of.
const (
	EventShutdown EventKind = "shutdown" // the guest or somebody else ends the VM
	EventReset    EventKind = "reset"    // the guest starts again; taps stay
	EventStop     EventKind = "stop"     // the VM is paused
	EventResume   EventKind = "resume"   // the VM goes on
	// EventTapFailed: a tap of ours answered with an error or was lost. It is
	// heard before the guest hears that its write is done.
	EventTapFailed EventKind = "tap-failed"
	// EventTapEnded: a tap's job is over, Failure empty when we ended it.
	EventTapEnded EventKind = "tap-ended"
	// EventDevices: devices, exports or jobs of others came or went; call CheckBypass and Volumes.
	EventDevices EventKind = "devices"
	// EventMigration: the VM is about to go to another host, or is not after all;
	// State says which. It comes with libvirt, and with QEMU where somebody has
	// switched migration events on; else only EventStop and CheckFence tell.
	EventMigration EventKind = "migration"
)

// Event is something that happened to an instance.
type Event struct {
	Kind    EventKind
	Time    time.Time // the hypervisor's clock
	Tap     string    // Tap.Job, for the tap kinds
	Device  string    // device id or path, for EventDevices
	State   string    // the hypervisor's word, for EventMigration: setup, active, …, completed, failed, cancelled
	Failure string    // for people, when something failed
	// Lost counts the events dropped just before this one because the
	// subscriber was slow: when it is not zero, ask for everything again.
	Lost uint64
}

// Events is a subscription. Next waits for the next event; it returns an
// error that is Machine.Err's after the last event of an instance, and ctx's
// error when ctx ends first.
type Events interface {
	Next(ctx context.Context) (Event, error)
	Close()
}
