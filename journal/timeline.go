package journal

import (
	"fmt"
	"slices"
)

// Timeline is what the control records of a log say: which seqs are recovery
// points, which volumes the group has, whether it is whole. It is a pure state
// machine: Apply does no I/O and reads no clock. Apply replaces slices and never
// writes into them, so a copied Timeline is a snapshot that stays as it is.
type Timeline struct {
	Epoch    Epoch    `json:"epoch"`
	Volumes  []Volume `json:"volumes,omitempty"` // by number; removed ones stay while points have them
	Attached bool     `json:"attached,omitempty"`
	// Syncing are the volumes whose replica may differ: added, attached or in
	// a sync, and no SyncEnd since.
	Syncing []VolumeID `json:"syncing,omitempty"`
	// MinPoint: a fence below it makes no point (see Apply).
	MinPoint Seq `json:"min_point,omitempty"`
	// Ranges are the points, ascending and disjoint; the last one grows with
	// the next fence while Open.
	Ranges      []SeqRange   `json:"ranges,omitempty"`
	Open        bool         `json:"open,omitempty"`
	LastFence   Fence        `json:"last_fence"`
	Checkpoints []Checkpoint `json:"checkpoints,omitempty"` // by seq
	CleanStop   bool         `json:"clean_stop,omitempty"`  // ended in order, nothing attached since
	Base        Seq          `json:"base,omitempty"`        // points below are gone
}

// Volume of a group, with what it was at older points.
type Volume struct {
	ID   VolumeID `json:"id"`
	UUID string   `json:"uuid,omitempty"`
	Name string   `json:"name,omitempty"`
	// Removed: points above that seq do not have the volume. Only if Gone.
	Removed Seq  `json:"removed,omitempty"`
	Gone    bool `json:"gone,omitempty"`
	// Sizes ascend by After; points above After have Size bytes. Points at or
	// below the first After do not have the volume, unless it is 0.
	Sizes []SizeAfter `json:"sizes"`
}

// SizeAfter is a size in bytes that holds for points above After.
type SizeAfter struct {
	After Seq   `json:"after"`
	Size  int64 `json:"size"`
}

// Size is the newest size in bytes.
func (v *Volume) Size() int64 {
	if len(v.Sizes) == 0 {
		return 0
	}
	return v.Sizes[len(v.Sizes)-1].Size
}

// At is the volume's size in bytes at a point; false if the point does not have
// the volume.
func (v *Volume) At(at Seq) (int64, bool) {
	if v.Gone && at > v.Removed {
		return 0, false
	}
	for _, s := range slices.Backward(v.Sizes) {
		if at > s.After || s.After == 0 {
			return s.Size, true
		}
	}
	return 0, false
}

// Volume finds a volume by number.
func (t *Timeline) Volume(id VolumeID) (Volume, bool) {
	i := slices.IndexFunc(t.Volumes, func(v Volume) bool { return v.ID == id })
	if i < 0 {
		return Volume{}, false
	}
	return t.Volumes[i], true
}

// IsPoint tells whether at is a recovery point.
func (t *Timeline) IsPoint(at Seq) bool {
	return slices.ContainsFunc(t.Ranges, func(r SeqRange) bool { return r.Contains(at) })
}

// Newest is the newest point; false if there is none.
func (t *Timeline) Newest() (Seq, bool) {
	if len(t.Ranges) == 0 {
		return 0, false
	}
	return t.Ranges[len(t.Ranges)-1].To, true
}

// Whole tells whether the next fence extends or opens a range.
func (t *Timeline) Whole() bool { return t.Attached && len(t.Syncing) == 0 }

// Apply moves the timeline on by one record; at is the seq in the record's
// header: its own for Attach, that of the last entry before it for the others.
//
//	Attach, Detach, Cut, CleanStop, SyncBegin, VolumeAdded, VolumeRemoved and
//	VolumeResized close the open range.
//	Fence extends the open range, or opens one at its seq when the group is
//	attached, no volume is in Syncing, and its seq is at least MinPoint.
//
// MinPoint is the seq of the last Attach or SyncEnd, or one above that of a
// change of the volume table: a point must have all of what the sync brought.
func (t *Timeline) Apply(c Control, at Seq) error {
	switch r := c.(type) {
	case Attach:
		return t.attach(r, at)
	case Detach, Cut:
		t.Open, t.Attached = false, false
	case CleanStop:
		t.Open, t.Attached, t.CleanStop = false, false, true
	case VolumeAdded, VolumeRemoved, VolumeResized:
		return t.changeVolume(c, at)
	case SyncBegin:
		if _, err := t.present(r.Volume); err != nil {
			return err
		}
		t.Open = false
		t.setSyncing(r.Volume, true)
	case SyncEnd:
		if _, err := t.present(r.Volume); err != nil {
			return err
		}
		t.setSyncing(r.Volume, false)
		t.MinPoint = max(t.MinPoint, at)
	case Fence:
		return t.fence(r, at)
	case Checkpoint:
		t.forgetCheckpoint(r.Name)
		i, _ := slices.BinarySearchFunc(t.Checkpoints, r.Seq+1, func(c Checkpoint, s Seq) int {
			return int(int64(c.Seq) - int64(s))
		})
		t.Checkpoints = slices.Insert(slices.Clone(t.Checkpoints), i, r)
	case CheckpointRemoved:
		t.forgetCheckpoint(r.Name)
	case ClockJump:
	case BaseMoved:
		t.moveBase(r.Seq)
	default:
		return fmt.Errorf("%w: apply %T", ErrInvalid, c)
	}
	return nil
}

func (t *Timeline) attach(r Attach, at Seq) error {
	if r.Epoch <= t.Epoch {
		return fmt.Errorf("%w: attach with epoch %d after epoch %d", ErrFenced, r.Epoch, t.Epoch)
	}
	t.Epoch, t.MinPoint = r.Epoch, at
	t.Open, t.Attached, t.CleanStop = false, true, false
	for _, v := range t.Volumes {
		if !v.Gone && !slices.Contains(r.Whole, v.ID) {
			t.setSyncing(v.ID, true)
		}
	}
	return nil
}

func (t *Timeline) fence(f Fence, at Seq) error {
	if f.Seq > at {
		return fmt.Errorf("%w: fence at %d, last seq is %d", ErrInvalid, f.Seq, at)
	}
	t.LastFence = f
	if !t.Whole() || f.Seq < t.MinPoint {
		return nil
	}
	last := len(t.Ranges) - 1
	if last >= 0 && (t.Open || f.Seq <= t.Ranges[last].To) {
		// A range that was closed goes on when nothing was written since.
		if f.Seq > t.Ranges[last].To {
			t.Ranges = slices.Clone(t.Ranges)
			t.Ranges[last].To = f.Seq
		}
		t.Open = true
		return nil
	}
	t.Ranges = append(slices.Clone(t.Ranges), SeqRange{From: f.Seq, To: f.Seq})
	t.Open = true
	return nil
}

func (t *Timeline) present(id VolumeID) (int, error) {
	i := slices.IndexFunc(t.Volumes, func(v Volume) bool { return v.ID == id && !v.Gone })
	if i < 0 {
		return 0, fmt.Errorf("%w: the group has no volume %d", ErrInvalid, id)
	}
	return i, nil
}

func (t *Timeline) changeVolume(c Control, at Seq) error {
	vols := slices.Clone(t.Volumes)
	switch r := c.(type) {
	case VolumeAdded:
		if _, dup := t.Volume(r.Volume); dup {
			return fmt.Errorf("%w: volume %d was added before", ErrInvalid, r.Volume)
		}
		vols = append(vols, Volume{ID: r.Volume, UUID: r.UUID, Name: r.Name, Sizes: []SizeAfter{{After: at, Size: r.Size}}})
		t.setSyncing(r.Volume, true)
	case VolumeRemoved:
		i, err := t.present(r.Volume)
		if err != nil {
			return err
		}
		vols[i].Gone, vols[i].Removed = true, at
		t.setSyncing(r.Volume, false)
	case VolumeResized:
		i, err := t.present(r.Volume)
		if err != nil {
			return err
		}
		sizes := slices.Clone(vols[i].Sizes)
		if n := len(sizes); n > 0 && sizes[n-1].After == at {
			sizes = sizes[:n-1]
		}
		vols[i].Sizes = append(sizes, SizeAfter{After: at, Size: r.Size})
	}
	t.Volumes = vols
	t.Open = false
	t.MinPoint = max(t.MinPoint, at+1)
	return nil
}

func (t *Timeline) setSyncing(id VolumeID, on bool) {
	i := slices.Index(t.Syncing, id)
	switch {
	case on && i < 0:
		t.Syncing = append(slices.Clone(t.Syncing), id)
	case !on && i >= 0:
		t.Syncing = slices.Delete(slices.Clone(t.Syncing), i, i+1)
	}
}

func (t *Timeline) forgetCheckpoint(name string) {
	if i := slices.IndexFunc(t.Checkpoints, func(c Checkpoint) bool { return c.Name == name }); i >= 0 {
		t.Checkpoints = slices.Delete(slices.Clone(t.Checkpoints), i, i+1)
	}
}

// moveBase forgets what only points below base needed.
func (t *Timeline) moveBase(base Seq) {
	if base <= t.Base {
		return
	}
	t.Base = base
	var ranges []SeqRange
	for _, r := range t.Ranges {
		if r.To >= base {
			ranges = append(ranges, SeqRange{From: max(r.From, base), To: r.To})
		}
	}
	t.Ranges = ranges
	t.Open = t.Open && len(ranges) > 0
	t.Checkpoints = slices.DeleteFunc(slices.Clone(t.Checkpoints), func(c Checkpoint) bool { return c.Seq < base })
	var vols []Volume
	for _, v := range t.Volumes {
		if v.Gone && v.Removed < base {
			continue
		}
		for len(v.Sizes) > 1 && v.Sizes[1].After < base {
			v.Sizes = v.Sizes[1:]
		}
		vols = append(vols, v)
	}
	t.Volumes = vols
}
