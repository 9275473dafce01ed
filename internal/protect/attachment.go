package protect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	gosync "sync"
	"time"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/journal"
)

// attachment is the group's VMs with their taps in place, in one epoch: from the
// moment they were found or made until one of them is not whole any more.
type attachment struct {
	g        *Group
	link     *link
	machines []*machine // in the order of the spec
	epoch    journal.Epoch
	kick     chan struct{} // a hint, of capacity 1: fence now

	owed         owed         // by the fencer
	switched     bool         // by bringUp: the bitmaps of this attachment's sync are frozen
	users        gosync.Mutex // held while VMs are asked who writes
	usersChecked time.Time    // by the fencer, when last nobody wrote around a tap

	sync struct {
		gosync.Mutex
		running string // what is copied now, for the status; "" when nothing
	}
}

// machine is one VM of the group.
type machine struct {
	ref     VMRef
	vm      vm.VM
	disks   []disk
	taps    []vm.Tap
	bitmaps []vm.Bitmap // of ours, as last listed
	missing string      // a volume of ours that it does not have now; "" if it has all
}

// disk is a protected volume as its VM has it now.
type disk struct {
	Volume
	now vm.Volume
}

// follow attaches, syncs and fences until something breaks; the error says what.
func (g *Group) follow(ctx context.Context, l *link) error {
	if s := l.stalled.Load(); s != nil {
		return s.err
	}
	if err := g.checkSpace(); err != nil {
		return err
	}
	a := &attachment{g: g, link: l, kick: make(chan struct{}, 1)}
	defer a.close()
	err := a.open(ctx)
	if err == nil {
		err = a.begin(ctx)
	}
	if err == nil {
		err = a.run(ctx)
	}
	if around := a.around(); around != nil && ctx.Err() != nil {
		// Whoever comes next hears nothing of it from the VM.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.cfg.DiskTimeout)
		defer cancel()
		return a.broke(last, around)
	}
	if err == nil || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, vm.ErrLost) && a.around() == nil {
		return err // the taps go on, and the next conversation says whether they are whole
	}
	return a.broke(ctx, err)
}

// open connects to every VM and finds its protected disks.
func (a *attachment) open(ctx context.Context) error {
	for _, ref := range a.g.spec.VMs {
		m, err := a.g.openMachine(ctx, ref)
		if errors.Is(err, vm.ErrLost) {
			return err
		}
		if err != nil {
			// Nothing can vouch for the taps now.
			return errors.Join(err, a.giveUp(ctx, err))
		}
		a.machines = append(a.machines, m)
	}
	for _, m := range a.machines {
		if m.missing != "" {
			return a.unplugged(ctx, m)
		}
	}
	return nil
}

// UnpluggedError: a VM does not have a protected volume any more.
type UnpluggedError struct{ Volume string }

func (e *UnpluggedError) Error() string {
	return fmt.Sprintf("volume %s is not there any more", e.Volume)
}

// Hint says what to do.
func (e *UnpluggedError) Hint() string {
	return "plug it in again, and it is compared; or unprotect the group and protect it without the volume"
}

// unplugged gives the group up until the volume is back, and takes the tap away
// that was on it: it would keep the image open.
func (a *attachment) unplugged(ctx context.Context, m *machine) error {
	err := error(&UnpluggedError{m.missing})
	if late := a.giveUp(ctx, err); late != nil {
		return errors.Join(err, late)
	}
	var left []vm.Tap
	for _, t := range m.taps {
		if !slices.ContainsFunc(m.disks, func(d disk) bool { return d.now.Node == t.Volume }) {
			left = append(left, t)
		}
	}
	if len(left) == 0 {
		return err
	}
	long, cancel := context.WithTimeout(ctx, 6*a.g.cfg.MonitorTimeout)
	defer cancel()
	return errors.Join(err, m.vm.Detach(long, left))
}

// giveUp stops recording when the group is not known to be whole. It waits for the
// journal's disk no longer than ctx lasts.
func (a *attachment) giveUp(ctx context.Context, why error) error {
	if ctx.Err() != nil {
		return nil
	}
	if err := a.void(ctx); err != nil {
		return err
	}
	tl := a.g.log.Timeline() // not in the call below: it may come late, when another epoch has begun
	return a.link.unhung(ctx, func() error { return a.g.cutAt(&tl, why.Error()) })
}

func (g *Group) openMachine(ctx context.Context, ref VMRef) (*machine, error) {
	ask, cancel := context.WithTimeout(ctx, g.cfg.MonitorTimeout)
	defer cancel()
	v, err := g.deps.OpenVM(ask, ref)
	if err != nil {
		return nil, &VMError{VM: ref.Name, Err: err}
	}
	m := &machine{ref: ref, vm: v}
	if err := m.look(ask, g); err != nil {
		v.Close()
		return nil, &VMError{VM: ref.Name, Err: err}
	}
	return m, nil
}

// VMError says that a VM cannot be worked with.
type VMError struct {
	VM  string
	Err error
}

func (e *VMError) Error() string { return fmt.Sprintf("VM %s cannot be reached: %v", e.VM, e.Err) }
func (e *VMError) Unwrap() error { return e.Err }

// Hint says what happens next.
func (e *VMError) Hint() string {
	var hinted interface{ Hint() string }
	if errors.As(e.Err, &hinted) {
		return hinted.Hint()
	}
	if errors.Is(e.Err, vm.ErrLost) {
		return "the VM and its taps go on, and so does protection as soon as the VM's monitor can be reached"
	}
	return "protection goes on by itself when the VM runs again; what changed meanwhile is found by comparing"
}

// look finds the group's disks, taps and bitmaps in the VM.
func (m *machine) look(ctx context.Context, g *Group) error {
	all, err := m.vm.Volumes(ctx)
	if err != nil {
		return fmt.Errorf("list its volumes: %w", err)
	}
	g.noteOthers(m, all)
	m.disks, m.missing = m.disks[:0], ""
	for _, v := range g.spec.Volumes {
		if v.VM != m.ref.Name {
			continue
		}
		i := slices.IndexFunc(all, func(d vm.Volume) bool { return d.Name == v.Disk })
		if i < 0 {
			m.missing = v.Name()
			continue
		}
		v.Node = all[i].Node
		m.disks = append(m.disks, disk{Volume: v, now: all[i]})
	}
	if m.taps, err = m.vm.ListTaps(ctx, g.tag); err != nil {
		return fmt.Errorf("list its taps: %w", err)
	}
	if m.bitmaps, err = m.vm.ListBitmaps(ctx, g.tag); err != nil {
		return fmt.Errorf("list its dirty bitmaps: %w", err)
	}
	return nil
}

// noteOthers tells the status which volumes of a VM are not the group's.
func (g *Group) noteOthers(m *machine, all []vm.Volume) {
	var others []DiskName
	for _, d := range all {
		if !slices.ContainsFunc(g.spec.Volumes, func(v Volume) bool { return v.VM == m.ref.Name && v.Disk == d.Name }) {
			others = append(others, DiskName{VM: m.ref.Name, Disk: d.Name})
		}
	}
	g.status.setOthers(m.ref.Name, others)
}

// tapOf finds the tap on a disk.
func (m *machine) tapOf(d disk) (vm.Tap, bool) {
	i := slices.IndexFunc(m.taps, func(t vm.Tap) bool { return t.Volume == d.now.Node })
	if i < 0 {
		return vm.Tap{}, false
	}
	return m.taps[i], true
}

// bitmapsOf are our usable bitmaps of a disk.
func (m *machine) bitmapsOf(d disk) []vm.Bitmap {
	var list []vm.Bitmap
	for _, b := range m.bitmaps {
		if b.Node == d.now.Node && !b.Inconsistent {
			list = append(list, b)
		}
	}
	return list
}

// remembers tells whether the VM itself has noted every write to the disk since
// the hub last had all of it: in this instance, or in those before it, which then
// all ended in order, so that their bitmaps are in the image.
func (m *machine) remembers(d disk, noted memoVolume) bool {
	same := noted.Instance == m.vm.Identity().Instance
	return slices.ContainsFunc(m.bitmapsOf(d), func(b vm.Bitmap) bool {
		if !b.Recording || same {
			return b.Recording
		}
		_, gen, ok := b.Name.Parse()
		return ok && b.Persistent && noted.Kept && gen == noted.Newest
	})
}

// close ends the conversations; taps and bitmaps stay.
func (a *attachment) close() {
	for _, m := range a.machines {
		m.vm.Close()
	}
}

// run works until something is not whole any more, and returns what.
func (a *attachment) run(ctx context.Context) error {
	run, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var helpers gosync.WaitGroup
	start := func(work func(context.Context) error) {
		helpers.Go(func() {
			if err := work(run); err != nil {
				cancel(err)
			}
		})
	}
	start(a.fencer)
	start(a.bringUp)
	for _, m := range a.machines {
		start(func(ctx context.Context) error { return a.watch(ctx, m) })
	}
	<-run.Done()
	helpers.Wait()
	return context.Cause(run)
}

// watch hears what happens to a VM.
func (a *attachment) watch(ctx context.Context, m *machine) error {
	events := m.vm.Subscribe()
	defer events.Close()
	for {
		e, err := events.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return &VMError{VM: m.ref.Name, Err: err}
		}
		switch e.Kind {
		case vm.EventShutdown:
			a.lastWords(ctx, m)
		case vm.EventDevices:
			a.users.Lock()
			a.usersChecked = time.Time{} // the fence that follows asks
			a.users.Unlock()
		default:
		}
		hint(a.kick)
	}
}

// lastWords fences once more while a VM that ends can still answer, and notes
// that it ended in order.
func (a *attachment) lastWords(ctx context.Context, m *machine) {
	err := a.fence(ctx)
	if err == nil && len(a.machines) == 1 && a.link.ring.State().Last == a.g.fences.seq() {
		err = a.g.stream.control(a.epoch, journal.CleanStop{Reason: "VM " + m.ref.Name + " shut down"})
	}
	if err != nil {
		a.g.logger.Info("the VM ended before a last fence", "vm", m.ref.Name, "err", err)
	}
}

// checkBypass is nil when it is known that nobody writes to the VM's protected
// volumes around their taps.
func (a *attachment) checkBypass(ctx context.Context, m *machine) error {
	ask, cancel := context.WithTimeout(ctx, a.g.cfg.MonitorTimeout)
	defer cancel()
	if err := m.vm.CheckBypass(ask, m.taps); err != nil {
		return fmt.Errorf("VM %s: %w", m.ref.Name, err)
	}
	// A volume that was unplugged leaves a tap that looks whole.
	all, err := m.vm.Volumes(ask)
	if err != nil {
		return fmt.Errorf("VM %s: list its volumes: %w", m.ref.Name, err)
	}
	a.g.noteOthers(m, all)
	for _, d := range m.disks {
		if !slices.ContainsFunc(all, func(v vm.Volume) bool { return v.Name == d.Disk && v.Node == d.now.Node }) {
			return &UnpluggedError{d.Name()}
		}
	}
	return nil
}

// broke ends an attachment that is not whole any more: what was proven stays
// offered, nothing more is.
func (a *attachment) broke(ctx context.Context, why error) error {
	var bad *VoidError
	if errors.As(why, &bad) {
		// All that was recorded before the cut is good if the taps still are; to know
		// that may take a while.
		a.g.report(why)
		a.lastFence(ctx)
	}
	err := errors.Join(why, a.bypassed(why), a.giveUp(ctx, why))
	return errors.Join(err, a.bypassed(nil)) // who went meanwhile
}

// around is a *vm.BypassError when somebody came and went unseen.
func (a *attachment) around() error {
	for _, m := range a.machines {
		if err := m.vm.Around(); err != nil {
			return fmt.Errorf("VM %s: %w", m.ref.Name, err)
		}
	}
	return nil
}

// bypassed notes which volumes were, or may have been, written to around their
// taps. A writer below a volume's node is in no bitmap of it. why may be nil.
func (a *attachment) bypassed(why error) error {
	var bypass *vm.BypassError
	if !errors.As(why, &bypass) {
		bypass = &vm.BypassError{}
	}
	for _, m := range a.machines {
		unseen := m.vm.Around() != nil
		for _, d := range m.disks {
			if !unseen && d.now.Node != bypass.Tap.Volume {
				continue
			}
			if err := a.g.memo.distrust(d.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// lastFence fences what was recorded before the ring went void.
func (a *attachment) lastFence(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, a.g.cfg.MonitorTimeout)
	defer cancel()
	a.epoch = a.g.log.Timeline().Epoch
	st := a.link.ring.State()
	if !st.Void || st.Epoch == 0 || a.link.lost.Load() != nil {
		return
	}
	f := journal.Fence{Seq: st.Cut, Wall: a.g.deps.Now().UnixNano(), Mono: monotonic(), Boot: BootID()}
	err := a.checkTaps(ctx, st)
	if err == nil {
		err = a.link.drainTo(ctx, st.Cut)
	}
	if err == nil {
		err = a.note(ctx, f, time.Unix(0, f.Wall))
	}
	if err != nil {
		a.g.logger.Info("the writes before the cut are not proven whole", "seq", st.Cut, "err", err)
	}
}

// void makes the keeper stop recording, and waits until the journal has all that it recorded.
func (a *attachment) void(ctx context.Context) error {
	ask, cancel := context.WithTimeout(ctx, a.g.cfg.MonitorTimeout)
	defer cancel()
	cut, err := a.link.keeper.Void(ask, a.g.spec.ID.String())
	if err != nil {
		return fmt.Errorf("stop recording: %w", err)
	}
	if err := a.link.emptied(ask, cut); err != nil {
		if s := a.link.stalled.Load(); s != nil {
			return s.err
		}
		return fmt.Errorf("take the last writes from the keeper: %w", err)
	}
	return nil
}

// owed is how far the journal was when it last was durable so far.
type owed struct {
	seq   journal.Seq
	since time.Time
}

// late tells whether something has waited longer than limit to become durable.
func (o *owed) late(log Journal, limit time.Duration) bool {
	if o.since.IsZero() || log.Durable() >= o.seq {
		o.seq, o.since = log.Appended(), time.Now()
	}
	return time.Since(o.since) > limit
}

// announce says how things stand after a good fence.
func (a *attachment) announce() {
	a.sync.Lock()
	running := a.sync.running
	a.sync.Unlock()
	durable := a.g.log.DurableTimeline()
	switch {
	case running != "":
		a.g.status.set(StateSyncing, running, "")
	case a.owed.late(a.g.log, a.g.cfg.MonitorTimeout):
		a.g.status.set(StateDegraded, "what the VM writes does not become durable; it is kept, and goes on by itself", "")
	case durable.Open && durable.Epoch == a.epoch:
		a.g.status.set(StateProtected, "", "")
	default:
		a.g.status.set(StateSyncing, "the first point after the sync is being made durable", "")
	}
}

func (a *attachment) setSyncing(what string) {
	a.sync.Lock()
	defer a.sync.Unlock()
	a.sync.running = what
}
