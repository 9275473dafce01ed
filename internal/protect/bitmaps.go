package protect

import (
	"context"
	"fmt"
	"time"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/journal"
)

// newBitmap names the next bitmap of disks: of a generation above all that the VMs
// have.
func (a *attachment) newBitmap(disks []disk) (vm.BitmapName, error) {
	var seen uint64
	for _, m := range a.machines {
		for _, b := range m.bitmaps {
			if _, gen, ok := b.Name.Parse(); ok {
				seen = max(seen, gen)
			}
		}
	}
	gen, err := a.g.memo.newGeneration(seen, disks)
	if err != nil {
		return "", fmt.Errorf("name a dirty bitmap: %w", err)
	}
	return vm.NewBitmapName(a.g.tag, gen), nil
}

// switchBitmaps begins a new generation on every disk: from one moment between
// two writes the new bitmap records, and the others stay as they are.
func (a *attachment) switchBitmaps(ctx context.Context) error {
	var disks []disk
	for _, m := range a.machines {
		disks = append(disks, m.disks...)
	}
	name, err := a.newBitmap(disks)
	if err != nil {
		return err
	}
	for _, m := range a.machines {
		ask, cancel := context.WithTimeout(ctx, a.g.cfg.MonitorTimeout)
		err := a.switchOn(ask, m, name)
		cancel()
		if err != nil {
			return fmt.Errorf("begin new dirty bitmaps in VM %s: %w", m.ref.Name, err)
		}
	}
	return nil
}

func (a *attachment) switchOn(ctx context.Context, m *machine, name vm.BitmapName) error {
	var s vm.BitmapSwitch
	for _, d := range m.disks {
		s.Add = append(s.Add, vm.BitmapRef{Node: d.now.Node, Name: name})
		if d.now.PersistentBitmaps {
			s.Persistent = append(s.Persistent, d.now.Node)
		}
		for _, b := range m.bitmapsOf(d) {
			if b.Recording {
				s.Disable = append(s.Disable, b.BitmapRef)
			}
		}
	}
	if err := m.vm.SwitchBitmaps(ctx, s); err != nil {
		return err
	}
	list, err := m.vm.ListBitmaps(ctx, a.g.tag)
	if err == nil {
		m.bitmaps = list
	}
	return err
}

// maxFrozen is how many bitmaps of syncs that did not come to their end a disk may
// keep. Each takes 2 MiB of the VM's memory per TiB of volume.
const maxFrozen = 16

// limitBitmaps gives the bitmaps of a disk up for a compare when there are too many.
func (a *attachment) limitBitmaps(ctx context.Context) error {
	var names []string
	for _, m := range a.machines {
		for _, d := range m.disks {
			frozen := m.frozen(d)
			if len(frozen) < maxFrozen {
				continue
			}
			noted := a.g.memo.volume(d.ID)
			noted.distrust()
			if err := a.g.memo.setNeed(d.ID, noted); err != nil {
				return err
			}
			for _, b := range frozen {
				names = append(names, bitmapKey(b))
			}
		}
	}
	if err := a.removeBitmaps(ctx, named(names)); err != nil {
		a.tryAgain("give up many dirty bitmaps", err)
	}
	return nil
}

func bitmapKey(b vm.Bitmap) string { return b.Node + "/" + string(b.Name) }

// frozen are the disk's bitmaps that record no more.
func (m *machine) frozen(d disk) []vm.Bitmap {
	var list []vm.Bitmap
	for _, b := range m.bitmapsOf(d) {
		if !b.Recording {
			list = append(list, b)
		}
	}
	return list
}

// removeBitmaps removes those that drop says, and the useless ones.
func (a *attachment) removeBitmaps(ctx context.Context, drop func(vm.Bitmap) bool) error {
	for _, m := range a.machines {
		var refs []vm.BitmapRef
		var rest []vm.Bitmap
		for _, b := range m.bitmaps {
			if b.Inconsistent || drop(b) {
				refs = append(refs, b.BitmapRef)
			} else {
				rest = append(rest, b)
			}
		}
		if len(refs) == 0 {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, a.g.cfg.MonitorTimeout)
		err := m.vm.RemoveBitmaps(ask, refs)
		cancel()
		if err != nil {
			return fmt.Errorf("remove dirty bitmaps of VM %s: %w", m.ref.Name, err)
		}
		m.bitmaps = rest
	}
	return nil
}

// rotate begins new bitmaps now and then, so that a resync reads little. A
// bitmap goes when all that was received at the switch after the one that froze
// it is durable: up to three live at once.
func (a *attachment) rotate(ctx context.Context) error {
	var at journal.Seq  // received at the newest switch
	var oldest []string // bitmaps frozen before that switch
	last := a.link.ring.State().Last
	for sleep(ctx, a.g.cfg.RotateBitmaps) {
		now := a.link.ring.State().Last
		if now == last && len(oldest) == 0 {
			continue
		}
		if a.g.log.Durable() >= at && len(oldest) > 0 {
			if err := a.removeBitmaps(ctx, named(oldest)); err != nil {
				a.tryAgain("remove old dirty bitmaps", err)
			}
			oldest = nil
		}
		frozen := a.frozenNames()
		if err := a.switchBitmaps(ctx); err != nil {
			a.tryAgain("begin new dirty bitmaps", err)
			continue
		}
		last = a.link.ring.State().Last
		at, oldest = last, frozen
	}
	return nil
}

// tryAgain logs what the next round will try again: old bitmaps only make a resync longer.
func (a *attachment) tryAgain(what string, err error) {
	a.g.logger.Warn("bitmaps stay for another round", "step", what, "err", err, "next", time.Now().Add(a.g.cfg.RotateBitmaps))
}

func (a *attachment) frozenNames() []string {
	var names []string
	for _, m := range a.machines {
		for _, d := range m.disks {
			for _, b := range m.frozen(d) {
				names = append(names, bitmapKey(b))
			}
		}
	}
	return names
}

func named(names []string) func(vm.Bitmap) bool {
	set := map[string]bool{}
	for _, n := range names {
		set[n] = true
	}
	return func(b vm.Bitmap) bool { return set[bitmapKey(b)] }
}
