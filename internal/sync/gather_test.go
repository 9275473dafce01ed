package sync

import (
	"sync/atomic"
	"testing"
)

// writes tells the writes that are made to it.
type writes chan int

func (w writes) Write(p []byte) (int, error) {
	w <- len(p)
	return len(p), nil
}

// While more frames are to come, one waits for them; else it goes at once, however long the others take.
func TestFramesAreGathered(t *testing.T) {
	var more atomic.Bool
	more.Store(true)
	queue, done, w, ended := make(chan []byte), make(chan struct{}), make(writes), make(chan error)
	go func() { ended <- writeFrames(w, queue, done, more.Load) }()
	total, calls := 0, 0
	for range 1000 { // some waits may be over before the next frame comes
		select {
		case queue <- make([]byte, 100):
		case n := <-w:
			total, calls = total+n, calls+1
			queue <- make([]byte, 100)
		}
	}
	for total < 1000*100 {
		total, calls = total+<-w, calls+1
	}
	if calls > 500 {
		t.Errorf("1000 frames went in %d writes", calls)
	}
	more.Store(false)
	for range 10 {
		queue <- make([]byte, 100)
		if n := <-w; n != 100 {
			t.Errorf("a write of %d bytes", n)
		}
	}
	more.Store(true)
	for range 2000 { // a peer that takes nothing: they gather up to joinWrites
		select {
		case queue <- make([]byte, 100):
			continue
		case n := <-w:
			if n > joinWrites+100 {
				t.Errorf("a write of %d bytes", n)
			}
		}
	}
	close(done)
	for {
		select {
		case <-w:
			continue
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
			return
		}
	}
}
