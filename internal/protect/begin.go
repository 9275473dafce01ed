package protect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/rephub/rephub/internal/keeper"
	"github.com/rephub/rephub/internal/tap"
	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/journal"
)

// begin makes the group whole: it goes on where an earlier run of the hub
// stopped when nothing was missed, and else attaches what is not attached and
// starts a new epoch.
func (a *attachment) begin(ctx context.Context) error {
	whole, err := a.goesOn(ctx)
	if err != nil {
		return err
	}
	if whole {
		a.epoch = a.g.log.Timeline().Epoch
		return nil
	}
	if st := a.link.ring.State(); !st.Void {
		a.g.logger.Info("the group is not whole, recording stops until it is", "epoch", st.Epoch)
	}
	a.lastFence(ctx)
	if err := a.giveUp(ctx, errors.New("a new epoch begins")); err != nil {
		return err
	}
	for _, m := range a.machines {
		if err := a.attach(ctx, m); err != nil {
			return fmt.Errorf("attach to VM %s: %w", m.ref.Name, err)
		}
	}
	return a.newEpoch(ctx)
}

// goesOn tells whether every tap is connected and known to its VM, the ring has
// recorded without a gap, and the journal is in the ring's epoch. The error is
// vm.ErrLost when the way to a VM is lost: that tells nothing about its taps, and
// recording goes on until somebody can ask.
func (a *attachment) goesOn(ctx context.Context) (bool, error) {
	st := a.link.ring.State()
	tl := a.g.log.Timeline()
	if st.Void || a.link.lost.Load() != nil || !tl.Attached || st.Epoch != tl.Epoch {
		return false, nil
	}
	if err := a.checkTaps(ctx, st); err != nil {
		return false, onlyLost(err)
	}
	for _, m := range a.machines {
		for _, d := range m.disks {
			_, tapped := m.tapOf(d)
			noted := a.g.memo.volume(d.ID)
			if !tapped || noted.Over || m.vm.Identity().Instance != noted.Instance || d.now.Size != d.size(&tl) {
				return false, nil
			}
		}
		if err := a.checkBypass(ctx, m); err != nil {
			return false, onlyLost(err)
		}
	}
	return true, nil
}

// onlyLost is err if it says nothing but that the way to the VM is lost.
func onlyLost(err error) error {
	if errors.Is(err, vm.ErrLost) && !broken(err) {
		return err
	}
	return nil
}

// size is what the journal says that the disk measures.
func (d *disk) size(tl *journal.Timeline) int64 {
	v, ok := tl.Volume(d.ID)
	if !ok {
		return -1
	}
	return v.Size()
}

// attach puts a tap on every disk of a VM that has none that works. The ring is void meanwhile.
func (a *attachment) attach(ctx context.Context, m *machine) error {
	long, cancel := context.WithTimeout(ctx, 6*a.g.cfg.MonitorTimeout)
	defer cancel()
	missing, err := a.clean(long, m)
	if err != nil {
		return err
	}
	if err := a.notes(m); err != nil {
		return err
	}
	if err := a.resize(m); err != nil {
		return err
	}
	// A disk that has a bitmap which records keeps it; the others get one, in
	// one transaction before the first tap.
	var with, without []disk
	for _, d := range missing {
		if m.remembers(d, a.g.memo.volume(d.ID)) {
			with = append(with, d)
		} else {
			without = append(without, d)
		}
	}
	if err := a.attachDisks(long, m, with, ""); err != nil {
		return err
	}
	if len(without) > 0 {
		gen, err := a.newBitmap(without)
		if err != nil {
			return err
		}
		if err := a.attachDisks(long, m, without, gen); err != nil {
			return err
		}
	}
	if err := m.look(long, a.g); err != nil {
		return err
	}
	if m.missing != "" {
		return &UnpluggedError{m.missing}
	}
	return a.checkBypass(long, m)
}

// clean takes what is left of broken taps away and returns the disks without a tap.
func (a *attachment) clean(ctx context.Context, m *machine) ([]disk, error) {
	st := a.link.ring.State()
	var missing []disk
	keep := map[string]bool{}
	for _, d := range m.disks {
		t, ok := m.tapOf(d)
		if ok && slotState(st, d.ID) == tap.SlotConnected {
			if _, err := m.vm.CheckFence(ctx, []vm.Tap{t}); err == nil {
				keep[t.Job] = true
				continue
			}
		}
		missing = append(missing, d)
	}
	var broken []vm.Tap
	for _, t := range m.taps {
		if !keep[t.Job] {
			broken = append(broken, t)
		}
	}
	if len(broken) == 0 {
		return missing, nil
	}
	if err := m.vm.Detach(ctx, broken); err != nil {
		return nil, fmt.Errorf("take old taps away: %w", err)
	}
	return missing, m.look(ctx, a.g)
}

// notes makes durable which sync every disk needs from now on, before the first
// write that only a bitmap knows of.
func (a *attachment) notes(m *machine) error {
	instance := m.vm.Identity().Instance
	tl := a.g.log.Timeline()
	for _, d := range m.disks {
		noted := a.g.memo.volume(d.ID)
		if noted.Need == needFull && HasPoint(&tl, d.ID) {
			noted.Need = needCompare
		}
		next := memoVolume{
			Need: noted.Need, Instance: instance, Node: d.now.Node, Stale: noted.Stale, Newest: noted.Newest,
			Kept: d.now.PersistentBitmaps && !slices.ContainsFunc(m.bitmapsOf(d), func(b vm.Bitmap) bool { return !b.Persistent }),
		}
		if !m.remembers(d, noted) || a.link.lost.Load() != nil {
			next.Need = max(noted.Need, needCompare)
			next.Stale = next.Stale || tl.Epoch != 0
		}
		if err := a.g.memo.setNeed(d.ID, next); err != nil {
			return err
		}
	}
	return nil
}

// HasPoint tells whether a recovery point has the volume. Then its base image is
// complete and part of that point, and no sync may write into it any more: a hub
// that was killed, or a group that was cut, between the first point and the memo
// of it would otherwise copy over history.
func HasPoint(tl *journal.Timeline, id journal.VolumeID) bool {
	v, ok := tl.Volume(id)
	return ok && slices.ContainsFunc(tl.Ranges, func(r journal.SeqRange) bool {
		_, has := v.At(r.To)
		return has
	})
}

// resize follows volumes that have another size than at the last attach. What
// is beyond the old end is found by comparing.
func (a *attachment) resize(m *machine) error {
	tl := a.g.log.Timeline()
	for _, d := range m.disks {
		if size := d.size(&tl); size == d.now.Size || size < 0 && d.now.Size == d.Size {
			continue
		}
		a.g.logger.Info("volume has a new size", "volume", d.Name(), "bytes", d.now.Size)
		noted := a.g.memo.volume(d.ID)
		noted.distrust()
		if err := a.g.memo.setNeed(d.ID, noted); err != nil {
			return err
		}
		if err := a.g.deps.Replica.ResizeVolume(d.ID, d.now.Size); err != nil {
			return fmt.Errorf("resize the replica of %s: %w", d.Name(), err)
		}
	}
	return nil
}

// attachDisks offers and attaches taps on disks of one VM, all or none.
func (a *attachment) attachDisks(ctx context.Context, m *machine, disks []disk, bitmap vm.BitmapName) error {
	if len(disks) == 0 {
		return nil
	}
	for _, d := range disks {
		if d.now.Refusal != nil {
			return fmt.Errorf("volume %s: %w", d.Name(), d.now.Refusal)
		}
	}
	k := a.link.keeper
	if err := k.Ping(ctx); err != nil {
		return fmt.Errorf("probe the tap keeper: %w", err)
	}
	var ask []keeper.Volume
	for _, d := range disks {
		ask = append(ask, keeper.Volume{ID: d.ID, Size: d.now.Size})
	}
	group := a.g.spec.ID.String()
	offers, err := k.Offer(ctx, group, ask)
	if err != nil {
		return fmt.Errorf("offer taps: %w", err)
	}
	socket, err := a.tapSocket(ctx)
	if err != nil {
		return err
	}
	want := vm.Attach{Group: a.g.tag, Bitmap: bitmap, PersistentBitmap: true}
	var ids []journal.VolumeID
	for _, o := range offers {
		i := slices.IndexFunc(disks, func(d disk) bool { return d.ID == o.Volume })
		if i < 0 {
			return fmt.Errorf("the tap keeper offered volume %d, which nobody asked for", o.Volume)
		}
		want.Volumes = append(want.Volumes, vm.AttachVolume{Node: disks[i].now.Node, Socket: socket, Export: o.Token, ID: vm.NewID()})
		ids = append(ids, o.Volume)
	}
	if _, err := m.vm.Attach(ctx, want); err != nil {
		return errors.Join(err, k.Withdraw(ctx, group, ids...))
	}
	return nil
}

// tapSocket is where VMs reach their taps.
func (a *attachment) tapSocket(ctx context.Context) (string, error) {
	if !a.g.cfg.TapTCP {
		return a.link.keeper.TapSocket(), nil
	}
	address, err := a.link.keeper.TapTCP(ctx)
	return "tcp:" + address, err
}

// newEpoch has the hub grant an epoch, notes it durably, and lets the keeper record.
func (a *attachment) newEpoch(ctx context.Context) error {
	g := a.g
	st := a.link.ring.State()
	tl := g.log.Timeline()
	epoch, err := g.deps.GrantEpoch(ctx, g.spec.ID, max(tl.Epoch, st.Epoch))
	if err != nil {
		return fmt.Errorf("get a new epoch: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	if err := a.noteVolumes(tl); err != nil {
		return err
	}
	seq := a.firstSeq(st)
	err = a.link.unhung(ctx, func() error { return g.stream.control(epoch, journal.Attach{Seq: seq, Host: host, Boot: BootID()}) })
	if err != nil {
		return fmt.Errorf("note epoch %d: %w", epoch, err)
	}
	if err := a.link.unhung(ctx, func() error { return g.durable(ctx) }); err != nil {
		return err
	}
	a.link.lost.Store(nil) // the memo has it
	ask, cancel := context.WithTimeout(ctx, g.cfg.MonitorTimeout)
	defer cancel()
	if err := a.link.keeper.Unvoid(ask, g.spec.ID.String(), epoch, seq+1); err != nil {
		return fmt.Errorf("begin to record: %w", err)
	}
	a.epoch = epoch
	g.logger.Info("recording", "epoch", epoch, "seq", seq)
	return nil
}

// noteVolumes puts volumes that are new, or have a new size, into the journal,
// before the epoch that is the first to have them so.
func (a *attachment) noteVolumes(tl journal.Timeline) error {
	var recs []journal.Control
	for _, m := range a.machines {
		for _, d := range m.disks {
			switch d.size(&tl) {
			case d.now.Size:
			case -1:
				recs = append(recs, journal.VolumeAdded{Volume: d.ID, UUID: d.UUID, Name: d.Name(), Size: d.now.Size})
			default:
				recs = append(recs, journal.VolumeResized{Volume: d.ID, Size: d.now.Size})
			}
		}
	}
	if len(recs) == 0 {
		return nil
	}
	if err := a.g.stream.control(tl.Epoch, recs...); err != nil {
		return fmt.Errorf("note the volumes: %w", err)
	}
	return nil
}

// firstSeq lies above every seq ever assigned. A ring that was lost may have
// assigned as many more as it has room for.
func (a *attachment) firstSeq(st tap.State) journal.Seq {
	seq := max(st.Last, a.g.log.Appended()) + 1
	if st.Epoch == 0 && a.g.log.Timeline().Epoch != 0 {
		seq += journal.Seq(a.g.cfg.RingSize/journal.EntryHeaderSize) + 1
	}
	return seq
}
