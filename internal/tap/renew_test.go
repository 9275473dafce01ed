package tap

import (
	"errors"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rephub/rephub/journal"
)

// TestRenew: taps write on while their ring is given up for another; what the new one records is whole, and neither a seq nor
// an epoch is used again.
func TestRenew(t *testing.T) {
	r, err := NewRing(MinRing)
	if err != nil {
		t.Fatal(err)
	}
	mem := NewMemory(1 << 30)
	p, err := NewProducer(r, ProducerConfig{Memory: mem})
	if err != nil {
		t.Fatal(err)
	}
	rings := []*Ring{r}
	defer func() {
		for _, r := range rings {
			r.Close()
		}
	}()
	if err := errors.Join(p.offered(7, 4096), p.Unvoid(3, 1)); err != nil {
		t.Fatal(err)
	}
	p.connected(7)
	stop := make(chan struct{})
	var taps sync.WaitGroup
	for vol := range journal.VolumeID(4) {
		taps.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					p.Write(vol+1, 0, make([]byte, 3000))
				}
			}
		})
	}
	defer taps.Wait()
	defer close(stop)
	for i := range journal.Epoch(20) {
		fresh, old, err := p.Renew()
		if err != nil {
			t.Fatal(err)
		}
		rings = append(rings, fresh)
		st, was := fresh.State(), old.State()
		if !st.Void || st.Reason != VoidCorrupt || st.Epoch != 0 || st.Last != was.Last || len(st.Slots) != 1 || st.Slots[0] != was.Slots[0] {
			t.Fatalf("%+v became %+v", was, st)
		}
		if err := p.Unvoid(3+i, st.Last+1); !errors.Is(err, ErrStale) {
			t.Fatalf("an old epoch: %v", err)
		}
		if err := p.Unvoid(4+i, st.Last); !errors.Is(err, ErrStale) && st.Last > 0 {
			t.Fatalf("an old seq: %v", err)
		}
		if err := p.Unvoid(4+i, st.Last+1); err != nil {
			t.Fatal(err)
		}
		memfd, event := dup(t, fresh)
		view, err := MapRing(memfd, event)
		if err != nil {
			t.Fatal(err)
		}
		c, err := NewConsumer(view)
		if err != nil {
			t.Fatal(err)
		}
		next := st.Last + 1
		for next < st.Last+20 {
			run, ok, err := c.Next(1 << 20)
			if err != nil || ok && (run.First != next || run.Epoch != 4+i) {
				t.Fatalf("run from seq %d of epoch %d, want %d of %d: %v", run.First, run.Epoch, next, 4+i, err)
			}
			if ok {
				next = run.Last + 1
				err = c.Release(run)
			} else {
				err = c.Wait(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if used := mem.Used(); used > 2*MinRing {
		t.Errorf("%d bytes are counted for one ring", used)
	}
}

// dup duplicates a ring's descriptors, as if sent to another process.
func dup(t *testing.T, r *Ring) (memfd, event int) {
	t.Helper()
	var fds [2]int
	for i, fd := range []int{r.memfd, r.event} {
		var err error
		if fds[i], err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			t.Fatal(err)
		}
	}
	return fds[0], fds[1]
}
