package replica

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/digest"
	"github.com/rephub/rephub/journal"
)

// versions are the hashes of a volume after each write of a row.
type versions struct {
	sums   [][]digest.Sum
	begun  atomic.Int64 // writes that may be seen
	landed atomic.Int64 // writes that must be seen
}

// TestHashesWhileRetaining hashes without a pause while writes come in and the
// base moves right behind them. Now and then everybody stops, and what is kept is
// held to the model.
func TestHashesWhileRetaining(t *testing.T) {
	const rounds, writes = 5, 40
	w := newWorld(t, 900)
	for range rounds {
		var all [volumes]versions
		done := make(chan struct{})
		var wg sync.WaitGroup
		var errs [2 * volumes]error
		for i := range all {
			h, err := w.s.Hashes(journal.VolumeID(1 + i))
			must(t, err)
			all[i].sums = make([][]digest.Sum, writes+1)
			all[i].sums[0] = sumPieces(h.hash, w.state(journal.VolumeID(1+i), w.highest), 0)
		}
		for i := range errs {
			h, err := w.s.Hashes(journal.VolumeID(1 + i%volumes))
			must(t, err)
			wg.Go(func() { errs[i] = all[i%volumes].watch(done, h) })
		}
		for n := range writes {
			w.write1(n, &all)
			_, err := w.s.Retain(context.Background(), w.clock.Add(time.Hour), Retention{History: time.Second})
			must(t, err)
		}
		close(done)
		wg.Wait()
		for _, err := range errs {
			must(t, err)
		}
		w.checkHashes()
	}
}

// write1 appends a write, and tells what the volumes are before anybody can see it.
func (w *world) write1(n int, all *[volumes]versions) {
	next := w.draw(1)
	for i := range all {
		h, err := w.s.Hashes(journal.VolumeID(1 + i))
		must(w.t, err)
		all[i].sums[n+1] = sumPieces(h.hash, w.state(journal.VolumeID(1+i), w.s.Log().Appended()+1), 0)
		all[i].begun.Store(int64(n + 1))
	}
	w.append(next)
	for i := range all {
		all[i].landed.Store(int64(n + 1))
	}
	w.fence()
	w.sync()
}

// watch hashes until done.
func (v *versions) watch(done chan struct{}, h *Hashes) error {
	var sums []digest.Sum
	for {
		select {
		case <-done:
			return nil
		default:
		}
		from := v.landed.Load()
		var err error
		if sums, err = h.Pieces(context.Background(), block.Range{Len: volSize}, sums[:0]); err != nil {
			return err
		}
		if v.begun.Load() != from {
			continue // there was a write meanwhile: a part of it may have been seen
		}
		if want := v.sums[from]; !slices.Equal(sums, want) {
			return fmt.Errorf("after write %d the hashes are %x, want %x", from, sums, want)
		}
	}
}

// TestHashesRetainedMeanwhile has retention come between the look at what is kept
// and the look at what has changed since: the entry that tells is gone by then.
func TestHashesRetainedMeanwhile(t *testing.T) {
	w := quiet(t, 910)
	w.append(w.batch(op{vol: 1, off: 100, n: 50, data: bytes.Repeat([]byte{77}, 50)}))
	w.fence()
	w.sync()
	h, err := w.s.Hashes(1)
	must(t, err)
	work := hashing{h: h, buf: new(hashBuffer), r: block.Range{Len: volSize}, synced: volSize}
	must(t, work.recall())
	if !work.known[0].ok {
		t.Fatal("no hash was kept")
	}
	res, err := w.s.Retain(context.Background(), w.clock.Add(time.Hour), Retention{History: time.Second})
	must(t, err)
	if res.Oldest != w.s.Log().Appended() {
		t.Fatalf("the base has come to %d of %d", res.Oldest, w.s.Log().Appended())
	}
	if again, err := work.complete(); err != nil || !again {
		t.Fatalf("the hash of before is believed: again %v, %v", again, err)
	}
	w.checkHashes()
}
