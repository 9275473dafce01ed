package journal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
)

// Ops of control records. Numbers are part of the format.
const (
	OpAttach Op = 32 + iota
	OpDetach
	OpVolumeAdded
	OpVolumeRemoved
	OpVolumeResized
	OpSyncBegin
	OpSyncEnd
	OpFence
	OpCheckpoint
	OpCheckpointRemoved
	OpCut
	OpCleanStop
	OpClockJump
	OpBaseMoved
	opControlEnd
)

// Control tells whether the op is that of a control record.
func (o Op) Control() bool { return o >= OpAttach && o < opControlEnd }

var opNames = map[Op]string{
	OpWrite: "write", OpZero: "zero", OpTrim: "trim",
	OpAttach: "attach", OpDetach: "detach",
	OpVolumeAdded: "volume-added", OpVolumeRemoved: "volume-removed", OpVolumeResized: "volume-resized",
	OpSyncBegin: "sync-begin", OpSyncEnd: "sync-end",
	OpFence: "fence", OpCheckpoint: "checkpoint", OpCheckpointRemoved: "checkpoint-removed",
	OpCut: "cut", OpCleanStop: "clean-stop", OpClockJump: "clock-jump", OpBaseMoved: "base-moved",
}

func (o Op) String() string {
	if s, ok := opNames[o]; ok {
		return s
	}
	return "op " + strconv.Itoa(int(o))
}

// maxControlBody bounds the body of a control record, in bytes.
const maxControlBody = 1 << 20

// Control is a control record: one of the struct types below. Its body in the
// log is its JSON form; fields may be added in later versions.
type Control interface {
	Op() Op
	check() error
}

// Attach begins an epoch: the taps are in place and everything sequenced from
// now on is recorded. It is the only control record that takes a seq of its
// own, Seq, above anything ever assigned; the first write of the epoch has
// Seq+1. Zero means the next free one. Every volume needs a sync afterwards,
// except those in Whole, of which nothing was missed.
type Attach struct {
	Epoch  Epoch      `json:"epoch"`         // AppendControl fills it in
	Seq    Seq        `json:"seq,omitempty"` // AppendControl fills it in when 0
	Whole  []VolumeID `json:"whole,omitempty"`
	Reason string     `json:"reason,omitempty"`
	Host   string     `json:"host,omitempty"`
	Boot   string     `json:"boot,omitempty"` // boot id of the host: monotonic clocks compare within one
}

// Detach: the taps were taken away in order. Nothing is recorded until the
// next Attach.
type Detach struct {
	Reason string `json:"reason,omitempty"`
}

// VolumeAdded puts a volume into the group. It needs a sync.
type VolumeAdded struct {
	Volume VolumeID `json:"volume"`
	UUID   string   `json:"uuid,omitempty"`
	Name   string   `json:"name,omitempty"`
	Size   int64    `json:"size"` // bytes
}

// VolumeRemoved takes a volume out of the group; older points still have it.
type VolumeRemoved struct {
	Volume VolumeID `json:"volume"`
}

// VolumeResized gives a volume a new size. What was cut off reads as zeroes if
// it ever comes back.
type VolumeResized struct {
	Volume VolumeID `json:"volume"`
	Size   int64    `json:"size"` // bytes
}

// SyncBegin: the volume's replica may differ from now on until its SyncEnd.
type SyncBegin struct {
	Volume VolumeID `json:"volume"`
	Kind   string   `json:"kind,omitempty"` // full, bitmap, compare
}

// SyncEnd: every difference is in the log (or in the base). The next fence at
// or above the last seq before this record is a point.
type SyncEnd struct {
	Volume VolumeID `json:"volume"`
	Kind   string   `json:"kind,omitempty"`
	Bytes  int64    `json:"bytes,omitempty"` // bytes that were copied
}

// Fence: all taps were whole at least up to Seq.
type Fence struct {
	Seq  Seq    `json:"seq"`
	Wall int64  `json:"wall"`           // host's wall clock, ns since 1970
	Mono int64  `json:"mono"`           // host's monotonic clock, ns
	Boot string `json:"boot,omitempty"` // boot id that Mono belongs to
}

// Checkpoint names a point. A second one of the same name replaces the first.
type Checkpoint struct {
	Name string `json:"name"`
	Seq  Seq    `json:"seq"`
	Kind string `json:"kind,omitempty"` // user, automatic …
	Time int64  `json:"time"`           // ns since 1970
	// Consistency is what the guests had done for the point; empty: nothing.
	Consistency Consistency `json:"consistency,omitempty"`
	// Reason is why the guests did nothing, although they were asked.
	Reason string `json:"reason,omitempty"`
}

// Consistency is what can be expected of a point.
type Consistency string

const (
	// CrashConsistent: as after a power loss, of all volumes at one moment.
	CrashConsistent Consistency = "crash"
	// ApplicationConsistent: the guests' file systems were frozen at that moment, with
	// everything written out, and what the guests do before a freeze was done.
	ApplicationConsistent Consistency = "application"
)

// CheckpointRemoved forgets a checkpoint's name.
type CheckpointRemoved struct {
	Name string `json:"name"`
}

// Cut: writes after Seq may be missing (void mode, a lost tap). No point is
// offered until the next Attach.
type Cut struct {
	Seq    Seq    `json:"seq"`
	Reason string `json:"reason,omitempty"`
}

// CleanStop: the VMs ended, every write they made is recorded.
type CleanStop struct {
	Reason string `json:"reason,omitempty"`
}

// ClockJump: the wall clock was set. Times in the log do not go backwards, so
// after a jump back they stand still until the clock has caught up.
type ClockJump struct {
	Before int64 `json:"before"` // ns since 1970
	After  int64 `json:"after"`
	Mono   int64 `json:"mono"`
}

// BaseMoved: the base image now holds everything up to Seq; older points are
// gone. DropBefore writes it.
type BaseMoved struct {
	Seq Seq `json:"seq"`
}

func (Attach) Op() Op            { return OpAttach }
func (Detach) Op() Op            { return OpDetach }
func (VolumeAdded) Op() Op       { return OpVolumeAdded }
func (VolumeRemoved) Op() Op     { return OpVolumeRemoved }
func (VolumeResized) Op() Op     { return OpVolumeResized }
func (SyncBegin) Op() Op         { return OpSyncBegin }
func (SyncEnd) Op() Op           { return OpSyncEnd }
func (Fence) Op() Op             { return OpFence }
func (Checkpoint) Op() Op        { return OpCheckpoint }
func (CheckpointRemoved) Op() Op { return OpCheckpointRemoved }
func (Cut) Op() Op               { return OpCut }
func (CleanStop) Op() Op         { return OpCleanStop }
func (ClockJump) Op() Op         { return OpClockJump }
func (BaseMoved) Op() Op         { return OpBaseMoved }

func (r Attach) check() error            { return nil }
func (r Detach) check() error            { return nil }
func (r VolumeAdded) check() error       { return checkVolume(r.Volume, r.Size) }
func (r VolumeRemoved) check() error     { return checkVolume(r.Volume, 0) }
func (r VolumeResized) check() error     { return checkVolume(r.Volume, r.Size) }
func (r SyncBegin) check() error         { return checkVolume(r.Volume, 0) }
func (r SyncEnd) check() error           { return checkVolume(r.Volume, 0) }
func (r Fence) check() error             { return nil }
func (r Checkpoint) check() error        { return checkName(r.Name) }
func (r CheckpointRemoved) check() error { return checkName(r.Name) }
func (r Cut) check() error               { return nil }
func (r CleanStop) check() error         { return nil }
func (r ClockJump) check() error         { return nil }
func (r BaseMoved) check() error         { return nil }

func checkVolume(v VolumeID, size int64) error {
	if v == 0 || size < 0 {
		return fmt.Errorf("%w: volume %d of %d bytes", ErrInvalid, v, size)
	}
	return nil
}

func checkName(name string) error {
	if name == "" {
		return fmt.Errorf("%w: checkpoint without a name", ErrInvalid)
	}
	return nil
}

// encodeControl is the record's body.
func encodeControl(c Control) ([]byte, error) {
	if c == nil {
		return nil, fmt.Errorf("%w: no record", ErrInvalid)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	body, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode %s record: %w", c.Op(), err)
	}
	if len(body) > maxControlBody {
		return nil, fmt.Errorf("%w: %s record of %d bytes", ErrInvalid, c.Op(), len(body))
	}
	return body, nil
}

// DecodeControl reads the body of a control record.
func DecodeControl(op Op, body []byte) (Control, error) {
	decode := decoders[op]
	if decode == nil {
		return nil, fmt.Errorf("%w: %s is no control record", ErrInvalid, op)
	}
	c, err := decode(body)
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return nil, fmt.Errorf("decode %s record: %w", op, err)
	}
	return c, nil
}

var decoders = map[Op]func([]byte) (Control, error){
	OpAttach:            decodeAs[Attach],
	OpDetach:            decodeAs[Detach],
	OpVolumeAdded:       decodeAs[VolumeAdded],
	OpVolumeRemoved:     decodeAs[VolumeRemoved],
	OpVolumeResized:     decodeAs[VolumeResized],
	OpSyncBegin:         decodeAs[SyncBegin],
	OpSyncEnd:           decodeAs[SyncEnd],
	OpFence:             decodeAs[Fence],
	OpCheckpoint:        decodeAs[Checkpoint],
	OpCheckpointRemoved: decodeAs[CheckpointRemoved],
	OpCut:               decodeAs[Cut],
	OpCleanStop:         decodeAs[CleanStop],
	OpClockJump:         decodeAs[ClockJump],
	OpBaseMoved:         decodeAs[BaseMoved],
}

func decodeAs[T Control](body []byte) (Control, error) {
	var v T
	if len(body) > maxControlBody {
		return nil, fmt.Errorf("%w: body of %d bytes", ErrInvalid, len(body))
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if d.More() {
		return nil, fmt.Errorf("%w: bytes after the record", ErrInvalid)
	}
	return v, nil
}
