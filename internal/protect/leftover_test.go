package protect

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// forgetfulVM makes its first export, and says that it did not; nor does it take
// one back while hold is set. So it looks to a hub after one that was killed there.
type forgetfulVM struct {
	vm.VM
	left, hold *atomic.Bool
}

func (f forgetfulVM) Export(ctx context.Context, e vm.Export) (vm.Exported, error) {
	out, err := f.VM.Export(ctx, e)
	if err == nil && f.left.CompareAndSwap(false, true) {
		return vm.Exported{}, errors.New("no answer came")
	}
	return out, err
}

func (f forgetfulVM) Unexport(ctx context.Context, id string) error {
	if f.hold.Load() {
		return errors.New("no answer came")
	}
	return f.VM.Unexport(ctx, id)
}

// An export that nobody remembers holds dirty bitmaps busy. When a tap is attached
// QEMU moves it from the volume's node to the tap's filter; it is found there, too.
func TestForgottenExport(t *testing.T) {
	s := newSite(t)
	q := vmtest.Start(t, vmtest.Config{})
	var left, hold atomic.Bool
	hold.Store(true)
	s.wrap = func(v vm.VM) vm.VM { return forgetfulVM{v, &left, &hold} }
	g := s.start(q)
	eventually(t, "an export is left behind", left.Load)
	if err := g.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.resumeFailing()
	hold.Store(false)
	g.reach(StateProtected)
	vmtest.IO(t, q.GuestURI("disk0"), "write -P 5 1M 64k")
	g.equal(q)
}

// resumeFailing resumes a group whose sync fails for now, which Resume may say.
func (r *running) resumeFailing() {
	r.t.Helper()
	var not *NotYetError
	if err := r.Resume(r.t.Context()); err != nil && !errors.As(err, &not) {
		r.t.Fatal(err)
	}
}
