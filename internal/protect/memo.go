package protect

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	gosync "sync"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/sealed"
	"github.com/rephub/rephub/journal"
)

// need is the sync that a volume needs before it may be called protected,
// ordered: a higher one covers the lower ones.
type need int

const (
	needBitmap  need = iota // all that may differ is in the bitmaps of the instance noted
	needCompare             // anything may differ
	needFull                // the base is not complete yet
)

var needNames = [...]string{needBitmap: "bitmap", needCompare: "compare", needFull: KindFull}

// KindFull is the kind, in journal.SyncEnd, of a sync that went into the base.
const KindFull = "full"

func (n need) String() string { return needNames[n] }

// memo is what a group must not forget over a restart of the hub: which volumes
// may differ from their source and by what that is known. It is written before
// the step that makes it true, so that being killed in between only costs a
// larger sync.
type memo struct {
	fs   vfs.FS
	path string

	mu gosync.Mutex
	d  memoData
}

const memoFile = "protect.json"

var memoKind = sealed.Kind{Magic: "rephub-protect", Version: 1}

type memoData struct {
	Generation uint64                          `json:"generation"` // newest bitmap generation ever named
	Volumes    map[journal.VolumeID]memoVolume `json:"volumes"`
}

type memoVolume struct {
	Need     need   `json:"need"`
	Instance string `json:"instance,omitempty"` // of the VM, whose bitmaps cover what is not at the hub
	Node     string `json:"node,omitempty"`
	// Stale, while Need is needFull: base and journal may hold data that is
	// older than the source and in no bitmap, so the copy ends with a compare.
	Stale bool `json:"stale,omitempty"`
	// Over: what was noted then is found by a sync in a new epoch only. Whoever noted
	// it may have been stopped before it could void the ring and cut the journal.
	Over bool `json:"over,omitempty"`
	// Kept: every bitmap that covers what is not at the hub outlives a clean stop
	// of the VM. Newest is the generation of the one that was begun last.
	Kept   bool   `json:"kept,omitempty"`
	Newest uint64 `json:"newest,omitempty"`
}

// distrust notes that anything of the volume may differ.
func (v *memoVolume) distrust() { v.Need, v.Stale = max(v.Need, needCompare), true }

// loadMemo reads the memo of a group's folder. Without one, or with volumes it
// does not know, everything is to be copied. So it is when the memo is damaged:
// then the error wraps sealed.ErrCorrupt, and the memo can be used.
func loadMemo(fs vfs.FS, dir string, volumes []Volume) (*memo, error) {
	m := &memo{fs: fs, path: filepath.Join(dir, memoFile)}
	m.d.Volumes = map[journal.VolumeID]memoVolume{}
	err := m.read()
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	} else if err != nil && !errors.Is(err, sealed.ErrCorrupt) {
		return nil, err
	}
	for _, v := range volumes {
		if _, ok := m.d.Volumes[v.ID]; !ok {
			m.d.Volumes[v.ID] = memoVolume{Need: needFull}
		}
	}
	return m, err
}

func (m *memo) read() error {
	d := memoData{Volumes: map[journal.VolumeID]memoVolume{}}
	if err := memoKind.Read(m.fs, m.path, &d); err != nil {
		return err
	}
	for id, v := range d.Volumes {
		if v.Need < needBitmap || v.Need > needFull {
			return fmt.Errorf("read %s: %w: volume %d needs %d", m.path, sealed.ErrCorrupt, id, v.Need)
		}
	}
	if d.Volumes != nil {
		m.d = d
	}
	return nil
}

// volume is what is noted of a volume.
func (m *memo) volume(id journal.VolumeID) memoVolume {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.d.Volumes[id]
}

// change edits the memo and makes it durable. It is called by one goroutine at a time.
func (m *memo) change(edit func(*memoData)) error {
	m.mu.Lock()
	next := memoData{Generation: m.d.Generation, Volumes: map[journal.VolumeID]memoVolume{}}
	for id, v := range m.d.Volumes {
		next.Volumes[id] = v
	}
	m.mu.Unlock()
	edit(&next)
	if err := memoKind.Write(m.fs, m.path, next); err != nil {
		return err
	}
	m.mu.Lock()
	m.d = next
	m.mu.Unlock()
	return nil
}

// setNeed notes what a volume needs and whose bitmaps cover it.
func (m *memo) setNeed(id journal.VolumeID, v memoVolume) error {
	if m.volume(id) == v {
		return nil
	}
	return m.change(func(d *memoData) { d.Volumes[id] = v })
}

// distrust notes durably that anything of a volume may differ, whoever goes on with
// it: that is found in a new epoch only.
func (m *memo) distrust(id journal.VolumeID) error {
	noted := m.volume(id)
	noted.distrust()
	noted.Over = true
	return m.setNeed(id, noted)
}

// Distrust notes durably, in a group's folder while no Group uses it, that anything
// of the volumes may differ: they are compared in a new epoch.
func Distrust(fs vfs.FS, dir string, volumes []Volume) error {
	m, err := loadMemo(fs, dir, volumes)
	if err != nil && !errors.Is(err, sealed.ErrCorrupt) {
		return err
	}
	for _, v := range volumes {
		if err := m.distrust(v.ID); err != nil {
			return err
		}
	}
	return nil
}

// newGeneration names a bitmap generation above all before it and above seen, and
// notes that it is the disks' newest before it is made: a bitmap that comes with an
// older copy of a disk has an older one.
func (m *memo) newGeneration(seen uint64, disks []disk) (uint64, error) {
	var gen uint64
	err := m.change(func(d *memoData) {
		d.Generation = max(d.Generation, seen) + 1
		gen = d.Generation
		for _, disk := range disks {
			v := d.Volumes[disk.ID]
			v.Newest = gen
			d.Volumes[disk.ID] = v
		}
	})
	return gen, err
}
