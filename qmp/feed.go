package qmp

import (
	"context"
	"sync"
)

// Feed gives events to any number of subscriptions. A Client has one; other ways
// to a QEMU's events can have one of their own.
type Feed struct {
	done chan struct{}

	mu struct {
		sync.Mutex
		err  error // why done is closed
		subs map[*Subscription]struct{}
	}
}

// NewFeed makes a feed without subscriptions.
func NewFeed() *Feed {
	f := &Feed{done: make(chan struct{})}
	f.mu.subs = make(map[*Subscription]struct{})
	return f
}

// Publish gives an event to all subscriptions; it never blocks. Events are in the
// order of the calls, so one goroutine makes them.
func (f *Feed) Publish(e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.mu.subs {
		s.push(e)
	}
}

// End says that no event will follow. The first err is what subscriptions give
// once all events are read.
func (f *Feed) End(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.err == nil {
		f.mu.err = err
		close(f.done)
	}
}

func (f *Feed) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.err
}

// Subscribe starts a subscription that holds up to size events (256 when size
// is not positive) and then drops the oldest.
func (f *Feed) Subscribe(size int) *Subscription {
	if size <= 0 {
		size = 256
	}
	s := &Subscription{feed: f, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	s.mu.ring = make([]Event, size)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.subs[s] = struct{}{}
	return s
}

// Subscription gets every event from its start on, as far as its buffer goes.
type Subscription struct {
	feed  *Feed
	wake  chan struct{} // buffered by one: something changed
	ended chan struct{}
	once  sync.Once

	mu struct {
		sync.Mutex
		ring []Event // len is the buffer's size
		head int     // oldest
		n    int
		lost uint64 // dropped since the last Next
	}
}

// Close ends the subscription. It may be called twice.
func (s *Subscription) Close() {
	s.once.Do(func() { close(s.ended) })
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	delete(s.feed.mu.subs, s)
}

// Next waits for the next event. When Event.Lost is not zero, that many events
// were dropped before it and the subscriber has to ask for the present state.
// The error is ctx's, ErrClosed after Close of the subscription, or the
// feed's once all events are read.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		if e, ok := s.pop(); ok {
			return e, nil
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return Event{}, ctx.Err()
		case <-s.ended:
			return Event{}, ErrClosed
		case <-s.feed.done:
			// The last event may have come after our pop.
			if e, ok := s.pop(); ok {
				return e, nil
			}
			return Event{}, s.feed.err()
		}
	}
}

func (s *Subscription) pop() (Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.n == 0 {
		return Event{}, false
	}
	e := s.mu.ring[s.mu.head]
	s.mu.ring[s.mu.head] = Event{}
	s.mu.head = (s.mu.head + 1) % len(s.mu.ring)
	s.mu.n--
	e.Lost, s.mu.lost = s.mu.lost, 0
	return e, true
}

func (s *Subscription) push(e Event) {
	s.mu.Lock()
	if s.mu.n == len(s.mu.ring) {
		s.mu.head = (s.mu.head + 1) % len(s.mu.ring)
		s.mu.n--
		s.mu.lost++
	}
	s.mu.ring[(s.mu.head+s.mu.n)%len(s.mu.ring)] = e
	s.mu.n++
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
