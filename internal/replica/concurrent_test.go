package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/rephub/rephub/journal"
)

// TestReadsWhileRetaining reads views, and the latest state, without a pause
// while writes come in, segments are sealed, indexes merged, and the base moves
// under the views, right up to their point.
func TestReadsWhileRetaining(t *testing.T) {
	w := newWorld(t, 700)
	w.history(300)
	at := w.s.Log().Appended()
	done := make(chan struct{})
	results := make(chan error, volumes)
	for id := journal.VolumeID(1); id <= volumes; id++ {
		v, err := w.s.View(id, at)
		must(t, err)
		want := w.state(id, at)
		go func() {
			err := readUntil(done, v, want, w.s.Latest(id).Size)
			results <- errors.Join(err, v.Close())
		}()
	}
	for range 60 {
		w.history(15)
		_, err := w.s.Retain(context.Background(), w.clock, Retention{History: 400 * time.Second})
		must(t, err)
	}
	for range 3 { // the indexes of the last segments are made in the background
		res, err := w.s.Retain(context.Background(), w.clock, Retention{History: time.Second})
		must(t, err)
		if res.Oldest != at || res.Held != at {
			t.Errorf("%+v, want the oldest held at %d", res, at)
		}
	}
	close(done)
	for range volumes {
		must(t, <-results)
	}
	w.check()
	vols, err := w.s.Volumes(at)
	if err != nil || len(vols) != volumes || vols[1].Size != volSize {
		t.Fatalf("volumes %v: %v", vols, err)
	}
}

func readUntil(done chan struct{}, v *View, want []byte, latest func() int64) error {
	got := make([]byte, volSize)
	for n := 0; ; n++ {
		select {
		case <-done:
			return nil
		default:
		}
		off := n * 4096 % volSize
		if n%8 == 0 {
			off = 0
		}
		if _, err := v.ReadAtContext(context.Background(), got[off:], int64(off)); err != nil {
			return err
		}
		if !bytes.Equal(got[off:], want[off:]) {
			return fmt.Errorf("volume %d changed at point %d, from byte %d on", v.id, v.at, off)
		}
		if _, err := v.Extents(int64(off), int64(volSize-off)); err != nil {
			return err
		}
		if latest() != volSize {
			return errors.New("latest state has another size")
		}
	}
}
