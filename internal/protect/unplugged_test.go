package protect

import (
	"context"
	"fmt"
	"slices"
	"strings"
	gosync "sync"
	"sync/atomic"
	"testing"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// hidingVM does not show a volume while hide says so.
type hidingVM struct {
	vm.VM
	hide func(vm.Volume) bool
}

func (h hidingVM) Volumes(ctx context.Context) ([]vm.Volume, error) {
	all, err := h.VM.Volumes(ctx)
	var left []vm.Volume
	for _, v := range all {
		if !h.hide(v) {
			left = append(left, v)
		}
	}
	return left, err
}

// A volume is unplugged: the group says so, its tap goes, the other's stays. When
// it is back all goes on.
func TestUnplugged(t *testing.T) {
	s := newSite(t)
	q := vmtest.Start(t, vmtest.Config{Disks: []vmtest.Disk{{Node: "a"}, {Node: "b"}}})
	var gone atomic.Bool
	s.wrap = func(v vm.VM) vm.VM {
		return hidingVM{v, func(d vm.Volume) bool { return gone.Load() && d.Name == "b" }}
	}
	g := s.start(q)
	g.reach(StateProtected)
	gone.Store(true)
	g.until("it is said", func(st Status) bool {
		return st.State == StateDegraded && strings.Contains(st.Reason, "vma/b") && strings.Contains(st.Hint, "plug it in again")
	})
	eventually(t, "only the tap of what is gone is taken away", func() bool {
		var jobs []struct {
			Device string `json:"device"`
		}
		q.Must("query-block-jobs", nil, &jobs)
		return len(jobs) == 1
	})
	vmtest.IO(t, q.GuestURI("a"), "write -P 5 1M 64k")
	vmtest.IO(t, q.GuestURI("b"), "write -P 6 2M 64k")
	gone.Store(false)
	g.reach(StateProtected)
	g.equal(q)
}

// A volume that its VM has besides is told of, from when it comes to when it goes.
func TestOthers(t *testing.T) {
	s := newSite(t)
	q := vmtest.Start(t, vmtest.Config{Disks: []vmtest.Disk{{Node: "a"}}})
	var there atomic.Bool
	s.wrap = func(v vm.VM) vm.VM { return moreVM{v, &there} }
	g := s.start(q)
	g.reach(StateProtected)
	for _, now := range []bool{false, true, false} {
		there.Store(now)
		g.until(fmt.Sprint("it is told of: ", now), func(st Status) bool {
			told := slices.Equal(st.Others, []DiskName{{"vma", "more"}})
			return st.State == StateProtected && told == now && (told || len(st.Others) == 0)
		})
	}
}

// moreVM shows a volume more while it is there.
type moreVM struct {
	vm.VM
	there *atomic.Bool
}

func (m moreVM) Volumes(ctx context.Context) ([]vm.Volume, error) {
	all, err := m.VM.Volumes(ctx)
	if err == nil && m.there.Load() {
		all = append(all, vm.Volume{Name: "more", Node: "more"})
	}
	return all, err
}

// lostVM is a conversation that can be lost while the VM goes on.
type lostVM struct {
	vm.VM
	once gosync.Once
	lost chan struct{}
}

func (l *lostVM) lose() { l.once.Do(func() { close(l.lost) }) }

func (l *lostVM) err(err error) error {
	select {
	case <-l.lost:
		return fmt.Errorf("test: %w", vm.ErrLost)
	default:
		return err
	}
}

func (l *lostVM) CheckFence(ctx context.Context, taps []vm.Tap) (vm.RunState, error) {
	state, err := l.VM.CheckFence(ctx, taps)
	return state, l.err(err)
}

func (l *lostVM) Subscribe() vm.Events { return &lostEvents{l.VM.Subscribe(), l} }

type lostEvents struct {
	vm.Events
	l *lostVM
}

func (e *lostEvents) Next(ctx context.Context) (vm.Event, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-e.l.lost:
			cancel()
		case <-ctx.Done():
		}
	}()
	ev, err := e.Events.Next(ctx)
	if lost := e.l.err(nil); lost != nil {
		return vm.Event{}, lost
	}
	return ev, err
}

// The way to a VM's monitor is lost and found again, as when libvirtd is
// restarted: the taps go on, and nothing has to be synced.
func TestWayToTheVMLost(t *testing.T) {
	s := newSite(t)
	q := vmtest.Start(t, vmtest.Config{})
	var mu gosync.Mutex
	var now *lostVM
	away := false
	s.wrap = func(v vm.VM) vm.VM {
		mu.Lock()
		defer mu.Unlock()
		now = &lostVM{VM: v, lost: make(chan struct{})}
		if away {
			now.lose()
		}
		return now
	}
	g := s.start(q)
	g.reach(StateProtected)
	epoch := g.Status().Epoch
	mu.Lock()
	away = true
	now.lose()
	mu.Unlock()
	g.until("the loss is seen", func(st Status) bool { return st.State == StateDegraded })
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 5 1M 64k")
	mu.Lock()
	away = false
	mu.Unlock()
	g.reach(StateProtected)
	g.equal(q)
	if st := g.Status(); st.Epoch != epoch {
		t.Errorf("epoch %d, it was %d: the group was synced though nothing was missed", st.Epoch, epoch)
	}
}
