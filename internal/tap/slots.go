package tap

import (
	"fmt"

	"github.com/rephub/rephub/journal"
)

// slotOf finds the volume's slot, or a free one when make is set. Callers hold mu.
func (p *Producer) slotOf(vol journal.VolumeID, make bool) *slot {
	for i := range p.ring.slots {
		s := &p.ring.slots[i]
		switch journal.VolumeID(s.volume.Load()) {
		case vol:
			return s
		case 0:
			if make {
				return s
			}
			return nil // slots are taken in order and never given back
		}
	}
	return nil
}

// offered notes that a token is out for the volume.
func (p *Producer) offered(vol journal.VolumeID, size int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.slotOf(vol, true)
	switch {
	case s == nil:
		return fmt.Errorf("offer volume %d: the group has had %d volumes, which is the limit", vol, maxSlots)
	case SlotState(s.state.Load()) == SlotConnected:
		return fmt.Errorf("offer volume %d: %w: its tap is connected", vol, ErrBusy)
	}
	p.changeState(func(*header) {
		s.volume.Store(uint32(vol))
		s.state.Store(uint32(SlotOffered))
		s.size.Store(uint64(size))
		s.offers.Add(1)
	})
	return nil
}

// withdrawn notes that the volume's token is no longer good. connected notes that it was used.
func (p *Producer) withdrawn(vol journal.VolumeID) { p.move(vol, SlotOffered, SlotNone) }
func (p *Producer) connected(vol journal.VolumeID) { p.move(vol, SlotOffered, SlotConnected) }

// disconnected notes that the volume's connection is over.
func (p *Producer) disconnected(vol journal.VolumeID, orderly bool) {
	if orderly {
		p.move(vol, SlotConnected, SlotClosed)
	} else {
		p.move(vol, SlotConnected, SlotLost)
	}
}

func (p *Producer) move(vol journal.VolumeID, from, to SlotState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.slotOf(vol, false)
	if s == nil || SlotState(s.state.Load()) != from {
		return
	}
	p.changeState(func(h *header) {
		s.state.Store(uint32(to))
		if to == SlotLost {
			s.losses.Add(1)
			h.losses.Add(1)
		}
	})
}
