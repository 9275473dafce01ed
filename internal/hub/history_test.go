package hub

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rephub/rephub/journal"
)

// A disk that hangs costs no status, is asked once at a time, and is waited for
// before the files are closed.
func TestOldestPointOnASlowDisk(t *testing.T) {
	answer := make(chan time.Time)
	var asked atomic.Int32
	var ended atomic.Bool
	o := oldestPoint{timeOf: func(at journal.Seq) (time.Time, error) {
		if asked.Add(1) == 3 {
			return time.Time{}, errors.New("dropped")
		}
		defer ended.Store(true)
		return <-answer, nil
	}}
	for range 3 {
		if at := o.time(7); !at.IsZero() {
			t.Errorf("it is %v before anybody knows", at)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("%d readers of a disk that hangs", n)
	}
	want := time.Unix(1e9, 0)
	looked := o.look(7)
	answer <- want
	<-looked
	if at := o.time(7); !at.Equal(want) || asked.Load() != 1 {
		t.Errorf("it is %v, want %v; asked %d times", at, want, asked.Load())
	}
	if at := o.time(8); !at.IsZero() {
		t.Errorf("the time of another point: %v", at)
	}
	looked = o.look(8)
	answer <- want
	<-looked
	if at := o.time(9); !at.IsZero() || asked.Load() != 3 {
		t.Errorf("a point that was dropped: %v", at)
	}
	ended.Store(false)
	o.look(10)
	go func() { answer <- want }()
	o.close()
	if !ended.Load() {
		t.Error("closed under a reader")
	}
	if at := o.time(11); !at.IsZero() {
		t.Errorf("after the end: %v", at)
	}
}
