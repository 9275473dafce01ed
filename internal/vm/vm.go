// Package vm says what rephub needs of a hypervisor, so that the rooms above
// it know volumes, taps, bitmaps and fences but no QMP.
//
// The interfaces are split by role; a hypervisor implements all of them (VM).
// Names of nodes are looked up at every attach and are valid only for the
// instance (the process) they were read from.
package vm

import "context"

// VM is one running instance of a protected VM.
type VM interface {
	Machine
	Bitmaps
	Taps
	Reader
	Guest
}

// Machine is the instance itself. All methods may be called by several
// goroutines at once; every call ends with its ctx at the latest, also when
// the VM hangs.
type Machine interface {
	// Identity is read once, when the instance is opened.
	Identity() Identity
	// RunState asks for the present run state.
	RunState(ctx context.Context) (RunState, error)
	// Volumes lists the writable disks, in the order of their names.
	Volumes(ctx context.Context) ([]Volume, error)
	// Definition is what is needed to start the VM elsewhere. It is an error with a
	// hint where that cannot be known: a monitor over TCP does not tell whose it is.
	Definition(ctx context.Context) (Definition, error)
	// Power does something with the guest as a whole. It returns when that is begun for
	// PowerShutDown, and done for the others.
	Power(ctx context.Context, what PowerAction) error
	// Subscribe starts a subscription to what happens to the instance. It
	// never slows the VM or other calls: a slow reader loses its oldest
	// events and is told how many.
	Subscribe() Events
	// Done is closed when the instance can no longer be talked to.
	Done() <-chan struct{}
	// Err is nil until Done is closed, then an error that is ErrGone or ErrLost.
	Err() error
	// Close ends the conversation and leaves the VM as it is, taps included.
	// It may be called twice.
	Close() error
}

// Bitmaps are the VM's own dirty bitmaps, law 3's memory of what changed.
type Bitmaps interface {
	// SwitchBitmaps adds and disables bitmaps on several volumes in one
	// transaction: all of it happens at one moment between two writes, or
	// none of it.
	SwitchBitmaps(ctx context.Context, s BitmapSwitch) error
	// RemoveBitmaps removes bitmaps; those that are already gone are no error.
	RemoveBitmaps(ctx context.Context, refs []BitmapRef) error
	// ListBitmaps lists our bitmaps: those of one group, or of all groups
	// when group is empty.
	ListBitmaps(ctx context.Context, group GroupTag) ([]Bitmap, error)
}

// Taps connect volumes to a tap server and take them away again.
type Taps interface {
	// Attach starts the taps of several volumes of this VM. It is all or
	// nothing: on error whatever it had made is taken back in the safe order.
	// The taps' server must just have been probed: one that accepts and stays
	// silent holds the whole VM up for a second.
	Attach(ctx context.Context, a Attach) ([]Tap, error)
	// Detach ends taps without loss: a soft cancel, the end of the job
	// awaited, then the tap's node removed. The tap's server must go on
	// answering until Detach returned. Calling it again goes on where an
	// earlier call stopped; a tap that is gone is no error.
	Detach(ctx context.Context, taps []Tap) error
	// ListTaps finds our taps, whole or half made, by their names: those of
	// one group, or of all groups when group is empty.
	ListTaps(ctx context.Context, group GroupTag) ([]Tap, error)
	// CheckFence answers whether all taps are whole: a *NotWholeError when
	// one is not, another error when it cannot be known. It is cheap.
	CheckFence(ctx context.Context, taps []Tap) (RunState, error)
	// CheckBypass answers whether every writer of a tapped volume still goes
	// through the tap: a *BypassError when one does not. Call it after every
	// EventDevices and, because QEMU tells of no device or export that comes,
	// with the fences.
	CheckBypass(ctx context.Context, taps []Tap) error
	// Around is a *BypassError from the moment on at which somebody who may have
	// written around a tap went without a CheckBypass having looked at him; it is
	// not known at which volume. CheckFence and CheckBypass fail with it, too. It
	// asks nobody, and forgets nothing while the instance is open.
	Around() error
}

// Reader lets us read volumes over NBD while the VM runs.
type Reader interface {
	// StartReader makes the VM listen, unless it already does for us.
	StartReader(ctx context.Context, c ReaderConfig) error
	// StopReader ends the server that StartReader had started with the same
	// config, unless somebody has an export on it.
	StopReader(ctx context.Context, c ReaderConfig) error
	// Export offers a volume and returns where to read it.
	Export(ctx context.Context, e Export) (Exported, error)
	// Unexport withdraws an export after its clients have gone; one that is
	// already withdrawn is no error. It is ErrBusy while a client is on it.
	Unexport(ctx context.Context, id string) error
	// ListExports finds our exports by name: those of one group, or of all
	// groups when group is empty.
	ListExports(ctx context.Context, group GroupTag) ([]Exported, error)
}
