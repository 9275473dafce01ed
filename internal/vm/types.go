package vm

import "fmt"

// Version is a hypervisor's version.
type Version struct {
	Major, Minor, Micro int
	Package             string // the distribution's addition, for people
}

// String is the version as people write it: "7.2.22".
func (v Version) String() string {
	return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro)
}

// Less orders versions; Package does not count.
func (v Version) Less(o Version) bool {
	if v.Major != o.Major {
		return v.Major < o.Major
	}
	if v.Minor != o.Minor {
		return v.Minor < o.Minor
	}
	return v.Micro < o.Micro
}

// Identity says which VM this is, and which of its instances.
type Identity struct {
	UUID    string // "" when the VM was given none
	Name    string // "" when the VM was given none
	Version Version
	// Instance differs for every process that runs the VM: after a restart
	// it is another one, and every bitmap that was not persistent is gone.
	Instance string
}

// RunState is the hypervisor's word for what the VM does now.
type RunState string

// Run states callers branch on; there are more.
const (
	StateRunning   RunState = "running"
	StatePaused    RunState = "paused"
	StatePreLaunch RunState = "prelaunch"
	StateShutdown  RunState = "shutdown"
)

// PowerAction is what can be done with a guest as a whole.
type PowerAction string

// The actions.
const (
	// PowerShutDown asks the guest to shut down, as its power button does. The instance
	// outlives that, with its disks and taps (StateShutdown), so that nothing of the
	// guest's last writes is missed. A guest may take its time, or not listen.
	PowerShutDown PowerAction = "shut-down"
	// PowerHold has the guest stand still (StatePaused). All that it was told to be written
	// is in its volumes and their taps.
	PowerHold PowerAction = "hold"
	// PowerGoOn takes the others back: a guest that was held goes on, one that has shut
	// down boots. A guest that runs is left alone.
	PowerGoOn PowerAction = "go-on"
	// PowerEnd ends the instance, as by pulling the plug.
	PowerEnd PowerAction = "end"
)

// Volume is a writable disk of a VM.
type Volume struct {
	// Name is for people and for catalog look-ups: the target (vda) with
	// libvirt, else the node name when it was given by a person, else the drive's
	// or the device's id.
	Name string
	// Node is the name to use with all other calls on this instance.
	Node string
	// Device is the guest device's id or path, "" without one.
	Device string
	// Size in bytes.
	Size int64
	// Format is the driver of the node that holds the data: raw, qcow2, …
	Format string
	// File is where the data is, as the hypervisor names it.
	File string
	// IOThread is the id of the thread that serves the device, "" for the
	// main loop.
	IOThread string
	// PersistentBitmaps says whether bitmaps can outlive a clean stop.
	PersistentBitmaps bool
	// Tapped says whether a tap of ours is on the volume.
	Tapped bool
	// Refusal, when not nil, says why this hypervisor cannot be trusted to
	// have the volume protected; it is ErrRefused and carries a hint.
	Refusal error
}

// BitmapRef names a bitmap of a volume.
type BitmapRef struct {
	Node string
	Name BitmapName
}

// Bitmap is one of our bitmaps.
type Bitmap struct {
	BitmapRef
	Granularity int64 // bytes that one bit stands for
	Dirty       int64 // bytes that the set bits stand for
	Recording   bool  // false: disabled
	Busy        bool  // in use by an export or a job
	Persistent  bool
	// Inconsistent: it was not saved at the last stop and means nothing; it
	// can only be removed.
	Inconsistent bool
}

// BitmapSwitch is one transaction. Add comes with granularity and
// persistence; Disable freezes bitmaps as they are at that moment.
type BitmapSwitch struct {
	Add         []BitmapRef
	Disable     []BitmapRef
	Granularity int64 // bytes; 0: DefaultBitmapGranularity
	// Persistent are the nodes whose new bitmap is to outlive a clean stop of the
	// VM; their PersistentBitmaps must be true.
	Persistent []string
}

// DefaultBitmapGranularity in bytes: the chunk that a resync reads again for
// one changed byte.
const DefaultBitmapGranularity = 64 << 10

// Attach asks for taps on volumes of one VM.
type Attach struct {
	Group GroupTag
	// Bitmap, when not empty, is added to every volume in one transaction
	// before the first tap, and taken back when the attach fails.
	Bitmap            BitmapName
	BitmapGranularity int64 // bytes; 0: DefaultBitmapGranularity
	// PersistentBitmap: it is to outlive a clean stop of the VM on those volumes
	// whose PersistentBitmaps is true.
	PersistentBitmap bool
	Volumes          []AttachVolume
}

// AttachVolume is one tap to make.
type AttachVolume struct {
	Node   string // Volume.Node
	Socket string // where the tap server listens: a unix path, or tcp:HOST:PORT
	Export string // export name, good for one connection
	// ID makes the names of this tap; at most 12 of a-z and 0-9. Empty: a
	// random one.
	ID string
}

// Tap is a tap on a volume. It holds names only, so it can be stored and used
// after a restart of ours.
type Tap struct {
	Volume string // node the tap is on; "" when ListTaps could not tell
	Job    string
	Filter string
	Node   string
}

// ReaderConfig says how the VM's NBD server is reached.
type ReaderConfig struct {
	// Dir is where the VM makes its unix socket, when Address is empty. It
	// must be writable for the VM's user. With libvirt the socket is in the
	// domain's own directory instead, which is.
	Dir string
	// Address is a server that somebody else has started: "unix:PATH" or
	// "HOST:PORT".
	Address string
}

// Export asks for a volume to be readable.
type Export struct {
	Group GroupTag
	Node  string
	// ID makes the export's names, like AttachVolume.ID.
	ID string
	// Bitmaps are offered as qemu:dirty-bitmap:NAME; they must be disabled.
	Bitmaps []BitmapName
	// Writable is for failback and tests.
	Writable bool
}

// Exported is an export in place.
type Exported struct {
	ID      string // for Unexport
	Node    string
	Network string // "unix" or "tcp"; "" when ListExports does not know
	Address string // path or HOST:PORT
	Name    string // NBD export name
}

// URI is the export as an NBD URI.
func (e Exported) URI() string {
	if e.Network == "unix" {
		return "nbd+unix:///" + e.Name + "?socket=" + e.Address
	}
	return "nbd://" + e.Address + "/" + e.Name
}
