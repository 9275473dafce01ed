package keeper

import (
	"errors"
	"fmt"
	"os"
	"sort"

	"golang.org/x/sys/unix"

	"github.com/rephub/rephub/internal/tap"
	"github.com/rephub/rephub/journal"
)

// obey does what a session asks. The descriptors returned are the caller's.
func (k *keeper) obey(s *session, r request) (message, []int, error) {
	switch r.Op {
	case opClaim:
		k.claim(s, r.ID)
		return message{}, nil, nil
	case opPing:
		return message{}, nil, nil
	case opStatus:
		return message{Status: k.status()}, nil, nil
	case opTCP:
		address, err := k.listenTCP()
		return message{Address: address}, nil, err
	}
	k.orders.RLock()
	defer k.orders.RUnlock()
	g, existed, err := k.group(s, r)
	if err != nil {
		return message{}, nil, err
	}
	g.op.Lock()
	defer g.op.Unlock()
	if g.closed {
		return message{}, nil, fmt.Errorf("group %q: %w", r.Group, ErrNoGroup)
	}
	switch r.Op {
	case opOpen:
		fds, err := g.descriptors()
		return message{Existed: existed}, fds, err
	case opOffer:
		offers, err := k.offer(g, r.Offer)
		return message{Offers: offers}, nil, err
	case opWithdraw:
		k.exports.Withdraw(g.name, r.Volumes...)
		return message{}, nil, nil
	case opVoid:
		return message{Cut: g.producer.Void()}, nil, nil
	case opDetach:
		cut := g.producer.Void()
		k.exports.Detaching(g.name, r.Volumes...)
		k.log.Info("taps are being detached", "group", g.name, "seq", cut)
		return message{Cut: cut}, nil, nil
	case opUnvoid:
		err := g.producer.Unvoid(r.Epoch, r.First)
		k.log.Info("record from here", "group", g.name, "epoch", r.Epoch, "seq", r.First, "err", err)
		return message{}, nil, err
	case opRenew:
		return message{}, nil, k.renew(g)
	case opClose:
		return message{}, nil, k.closeRing(g)
	}
	return message{}, nil, fmt.Errorf("%w: %s", ErrBadRequest, r.Op)
}

// claim makes s the controller, tells the one before, and gives s the reply and the taps in one row. What the one before has
// ordered is done by then, or refused.
func (k *keeper) claim(s *session, id uint64) {
	k.orders.Lock()
	defer k.orders.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	if old := k.mu.controller; old != nil && old != s {
		old.send(message{Event: eventReplaced})
		old.end(false)
	}
	k.mu.controller = s
	k.mu.claims++
	s.send(message{ID: id})
	for _, t := range k.mu.taps {
		s.tellTap(t)
	}
	k.log.Info("controller connected", "claims", k.mu.claims, "taps", len(k.mu.taps))
}

// group finds the group of a controller's request; opOpen makes it.
func (k *keeper) group(s *session, r request) (g *group, existed bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mu.controller != s {
		return nil, false, fmt.Errorf("%s: %w", r.Op, ErrReplaced)
	}
	if g := k.mu.rings[r.Group]; g != nil {
		return g, true, nil
	}
	if r.Op != opOpen {
		return nil, false, fmt.Errorf("group %q: %w", r.Group, ErrNoGroup)
	}
	ring, err := tap.NewRing(r.Size)
	if err != nil {
		return nil, false, err
	}
	p, err := tap.NewProducer(ring, tap.ProducerConfig{Memory: k.memory, VoidAfter: k.cfg.VoidAfter})
	if err != nil {
		return nil, false, errors.Join(err, ring.Close())
	}
	g = &group{name: r.Group, ring: ring, producer: p}
	k.mu.rings[r.Group] = g
	return g, false, nil
}

// descriptors duplicates the ring's, for sending.
func (g *group) descriptors() (fds []int, err error) {
	memfd, event := g.ring.Descriptors()
	for _, fd := range []int{memfd, event} {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			closeAll(fds)
			return nil, fmt.Errorf("duplicate ring: %w", err)
		}
		fds = append(fds, dup)
	}
	return fds, nil
}

// offer offers all volumes or none.
func (k *keeper) offer(g *group, volumes []Volume) ([]Offer, error) {
	var offers []Offer
	var ids []journal.VolumeID
	for _, v := range volumes {
		token, err := k.exports.Offer(g.name, g.producer, v.ID, v.Size)
		if err != nil {
			if len(ids) > 0 {
				k.exports.Withdraw(g.name, ids...)
			}
			return nil, err
		}
		ids = append(ids, v.ID)
		offers = append(offers, Offer{Volume: v.ID, Token: token})
	}
	return offers, nil
}

// renew gives a group a new ring under its connected taps. Callers hold g.op.
func (k *keeper) renew(g *group) error {
	fresh, old, err := g.producer.Renew()
	k.log.Warn("ring is given up for a new one", "group", g.name, "err", err)
	if fresh != nil {
		g.ring, g.given = fresh, append(g.given, old)
	}
	return err
}

// closeRing gives a group up. Callers hold g.op.
func (k *keeper) closeRing(g *group) error {
	k.exports.Withdraw(g.name)
	if n := k.exports.Connected(g.name); n > 0 {
		return fmt.Errorf("close ring of group %q: %w: %d taps are connected", g.name, tap.ErrBusy, n)
	}
	k.mu.Lock()
	delete(k.mu.rings, g.name)
	k.mu.Unlock()
	return g.release()
}

// status pictures everything.
func (k *keeper) status() *Status {
	st := &Status{PID: os.Getpid(), Taps: k.exports.Connected(""), Memory: k.memory.Used()}
	for _, g := range k.groups() {
		g.op.Lock()
		if !g.closed {
			st.Rings = append(st.Rings, RingStatus{Group: g.name, ID: g.ring.ID(), State: g.ring.State()})
		}
		g.op.Unlock()
	}
	sort.Slice(st.Rings, func(i, j int) bool { return st.Rings[i].Group < st.Rings[j].Group })
	return st
}
