package qmp

import (
	"context"
	"sync"
)

// Subscription gets every event from its start on, as far as its buffer goes.
type Subscription struct {
	client *Client
	wake   chan struct{} // buffered by one: something changed
	ended  chan struct{}
	once   sync.Once

	mu struct {
		sync.Mutex
		ring []Event // len is the buffer's size
		head int     // oldest
		n    int
		lost uint64 // dropped since the last Next
	}
}

// Subscribe starts a subscription that holds up to size events (256 when size
// is not positive) and then drops the oldest.
func (c *Client) Subscribe(size int) *Subscription {
	if size <= 0 {
		size = 256
	}
	s := &Subscription{client: c, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	s.mu.ring = make([]Event, size)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.subs[s] = struct{}{}
	return s
}

// Close ends the subscription. It may be called twice.
func (s *Subscription) Close() {
	s.once.Do(func() { close(s.ended) })
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	delete(s.client.mu.subs, s)
}

// Next waits for the next event. When Event.Lost is not zero, that many events
// were dropped before it and the subscriber has to ask for the present state.
// The error is ctx's, ErrClosed after Close of the subscription, or the
// client's once all events are read.
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
		case <-s.client.done:
			// The reader may have pushed its last event after our pop.
			s.client.wg.Wait()
			if e, ok := s.pop(); ok {
				return e, nil
			}
			return Event{}, s.client.Err()
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

// publish is called by the reader only.
func (c *Client) publish(e Event) {
	if c.opts.OnEvent != nil {
		c.opts.OnEvent(e)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.mu.subs {
		s.push(e)
	}
}
