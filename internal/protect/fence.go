package protect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	gosync "sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rephub/rephub/internal/tap"
	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/journal"
)

// fences remembers the newest fence.
type fences struct {
	mu   gosync.Mutex
	last journal.Seq
	time time.Time // when last was the newest seq and the taps were then found whole
}

func (f *fences) seq() journal.Seq {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

func (f *fences) whole() (time.Time, journal.Seq) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.time, f.last
}

func (f *fences) set(seq journal.Seq, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last, f.time = seq, at
}

// VoidError: the keeper answers the taps and records nothing.
type VoidError struct {
	Reason tap.VoidReason
	Cut    journal.Seq
}

func (e *VoidError) Error() string {
	switch e.Reason {
	case tap.VoidFull:
		return "writes came faster than the journal's disk took them; what was missed is synced next"
	case tap.VoidMemory:
		return "the keeper's memory for writes on their way is used up; what was missed is synced next"
	}
	return fmt.Sprintf("writes are not recorded (%s); what was missed is synced next", e.Reason)
}

// TapLostError: a VM's tap is gone, so writes may be missing.
type TapLostError struct {
	Volume string
	Detail string
}

func (e *TapLostError) Error() string {
	return fmt.Sprintf("the tap of volume %s was lost (%s); what was missed is synced next", e.Volume, e.Detail)
}

// errEpochOver: the journal was told that the epoch ended (a clean stop), but the VM goes on.
var errEpochOver = errors.New("the VM had ended and goes on; a new epoch begins")

// fencer fences until something is not whole any more.
func (a *attachment) fencer(ctx context.Context) error {
	silent := time.Time{}
	for {
		err := a.fence(ctx)
		switch {
		case err == nil:
			silent = time.Time{}
			a.announce()
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case broken(err):
			return err
		case silent.IsZero():
			silent = time.Now()
		case time.Since(silent) > a.g.cfg.MonitorTimeout:
			a.g.status.fail(fmt.Errorf("no proof that all writes are recorded: %w", err))
		}
		a.rest(ctx)
	}
}

// rest waits between two fences: a little under load, until the next write, or
// longer, when there is none.
func (a *attachment) rest(ctx context.Context) {
	busy := time.NewTimer(a.g.cfg.FenceBusy)
	defer busy.Stop()
	select {
	case <-busy.C:
	case <-a.link.changed:
		return
	case <-a.kick:
		return
	case <-ctx.Done():
		return
	}
	idle := time.NewTimer(a.g.cfg.FenceIdle - a.g.cfg.FenceBusy)
	defer idle.Stop()
	if a.link.ring.State().Last > a.g.fences.seq() {
		return
	}
	select {
	case <-idle.C:
	case <-a.g.stream.arrived:
	case <-a.link.changed:
	case <-a.kick:
	case <-ctx.Done():
	}
}

// broken tells whether an error of fence means that writes may have been missed.
func broken(err error) bool {
	var void *VoidError
	var lost *TapLostError
	var not *vm.NotWholeError
	var bypass *vm.BypassError
	var gap *GapError
	var out *UnpluggedError
	return errors.As(err, &gap) || errors.As(err, &out) || errors.Is(err, errEpochOver) || errors.As(err, &void) || errors.As(err, &lost) || errors.As(err, &not) || errors.As(err, &bypass) || errors.Is(err, vm.ErrGone)
}

// fence proves that nothing was missed up to the seq assigned last when it
// begins, and notes that in the journal when it is new. The order is the proof:
// first the seq, then the question to every VM, then the ring again.
func (a *attachment) fence(ctx context.Context) error {
	before := a.link.ring.State()
	now := a.g.deps.Now()
	f := journal.Fence{Seq: before.Last, Wall: now.UnixNano(), Mono: monotonic(), Boot: BootID()}
	if gap := a.link.lost.Load(); gap != nil {
		return gap
	}
	if before.Void {
		return &VoidError{Reason: before.Reason, Cut: before.Cut}
	}
	if err := a.checkTaps(ctx, before); err != nil {
		return err
	}
	if err := a.checkUsers(ctx); err != nil {
		return err
	}
	if err := a.drained(ctx, f.Seq); err != nil {
		return err
	}
	return a.note(ctx, f, now)
}

// note writes a fence into the journal if it says anything new.
func (a *attachment) note(ctx context.Context, f journal.Fence, now time.Time) error {
	tl := a.g.log.Timeline()
	if tl.CleanStop && a.epoch == tl.Epoch {
		return errEpochOver
	}
	if f.Seq > tl.LastFence.Seq || !tl.Open && tl.Whole() {
		epoch := a.epoch
		err := a.link.unhung(ctx, func() error {
			a.link.settling.Lock() // a detach is noted after it
			defer a.link.settling.Unlock()
			return a.g.stream.control(epoch, f)
		})
		if err != nil {
			return fmt.Errorf("note a fence: %w", err)
		}
	}
	a.g.fences.set(f.Seq, now)
	return nil
}

// checkTaps is nil when every tap was whole from the moment that before was
// pictured until now.
func (a *attachment) checkTaps(ctx context.Context, before tap.State) error {
	if err := a.checkSlots(before); err != nil {
		return err
	}
	for _, m := range a.machines {
		ask, cancel := context.WithTimeout(ctx, a.g.cfg.MonitorTimeout)
		_, err := m.vm.CheckFence(ask, m.taps)
		cancel()
		if err != nil {
			return fmt.Errorf("VM %s: %w", m.ref.Name, err)
		}
	}
	after := a.link.ring.State()
	if after.Losses != before.Losses {
		return &TapLostError{Volume: "unknown", Detail: "its connection ended"}
	}
	return a.checkSlots(after)
}

func (a *attachment) checkSlots(s tap.State) error {
	for _, v := range a.g.spec.Volumes {
		if state := slotState(s, v.ID); state != tap.SlotConnected {
			return &TapLostError{Volume: v.Name(), Detail: "its connection is " + state.String()}
		}
	}
	return nil
}

// checkUsers is a *vm.BypassError when somebody writes to a volume around its
// tap. QEMU tells nobody when that begins; who goes before a look, the VM notes.
func (a *attachment) checkUsers(ctx context.Context) error {
	a.users.Lock() // a VM's last words are a fence beside the fencer's
	defer a.users.Unlock()
	if time.Since(a.usersChecked) < a.g.cfg.BypassEvery {
		return nil
	}
	for _, m := range a.machines {
		if err := a.checkBypass(ctx, m); err != nil {
			return err
		}
	}
	a.usersChecked = time.Now()
	return nil
}

func slotState(s tap.State, id journal.VolumeID) tap.SlotState {
	for _, slot := range s.Slots {
		if slot.Volume == id {
			return slot.State
		}
	}
	return tap.SlotNone
}

// drained waits until the journal has everything up to seq, and says so when
// the journal's disk holds that up.
func (a *attachment) drained(ctx context.Context, seq journal.Seq) error {
	for {
		wait, cancel := context.WithTimeout(ctx, a.g.cfg.Retry)
		err := a.g.stream.waitAppended(wait, seq)
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		if gap := a.link.lost.Load(); gap != nil {
			return gap
		}
		if s := a.link.stalled.Load(); s != nil {
			a.g.status.fail(s.err)
		}
		if st := a.link.ring.State(); st.Void {
			return &VoidError{Reason: st.Reason, Cut: st.Cut}
		}
	}
}

// monotonic is the host's monotonic clock in ns.
func monotonic() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return t.Nano()
}

// BootID tells machines, and the boots of one, apart; empty when it cannot be read. Monotonic times of two boots are not compared.
var BootID = gosync.OnceValue(func() string {
	p, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(p))
})
