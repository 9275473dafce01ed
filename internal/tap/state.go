package tap

import (
	"fmt"
	"math"

	"github.com/rephub/rephub/journal"
)

// SlotState is where one volume's tap is in its life:
//
//	none ──Offer──▶ offered ──GO──▶ connected ──connection over──▶ lost
//	 ▲                │                 │                           │
//	 └────Withdraw────┘             Detach, then connection over    │
//	                                    └──▶ closed ──Offer──▶ offered (again, with a new token)
type SlotState uint32

// States of a slot.
const (
	SlotNone      SlotState = iota // no tap; an offer that was withdrawn
	SlotOffered                    // a token is out, nobody has used it
	SlotConnected                  // a VM is connected
	SlotLost                       // the connection ended though nobody had asked for it: writes may be missing
	SlotClosed                     // the connection ended after Detach
)

// String names the state as status output does.
func (s SlotState) String() string {
	switch s {
	case SlotNone:
		return "none"
	case SlotOffered:
		return "offered"
	case SlotConnected:
		return "connected"
	case SlotLost:
		return "lost"
	case SlotClosed:
		return "closed"
	}
	return fmt.Sprintf("SlotState(%d)", uint32(s))
}

// Slot is what the ring tells about one volume's tap.
type Slot struct {
	Volume journal.VolumeID
	State  SlotState
	Size   int64  // bytes, as offered
	Offers uint32 // tokens ever given out for it
	Losses uint32 // connections ever lost
}

// State is a consistent picture of a ring, taken at one moment.
type State struct {
	Epoch      journal.Epoch
	Last       journal.Seq // newest seq assigned, of any epoch; the write may still be on its way into the ring
	Consumed   journal.Seq // newest seq released by a consumer, 0 when none
	Void       bool        // writes are answered and not recorded
	Cut        journal.Seq // while void: the last seq recorded before
	Voids      uint64      // times the ring went void, for whatever reason; it begins void
	Reason     VoidReason  // of the last time
	VoidWrites uint64      // requests answered while void, ever
	VoidBytes  uint64      // bytes they covered
	Losses     uint64      // taps lost, ever; when two States around a question to the VMs agree on it, no tap was lost between
	Used, Size int64       // bytes of the data area in use, and in all
	Slots      []Slot      // of volumes ever offered
}

// VoidReason says why a ring went void.
type VoidReason uint32

// Reasons.
const (
	VoidNew     VoidReason = iota // it is new: nobody has granted an epoch yet
	VoidAsked                     // the controller asked
	VoidFull                      // the consumer did not keep up
	VoidMemory                    // the process's memory for rings was used up
	VoidCorrupt                   // somebody wrote nonsense into the consumer's part of the ring
)

// String names the reason as status output does.
func (r VoidReason) String() string {
	switch r {
	case VoidNew:
		return "new"
	case VoidAsked:
		return "asked"
	case VoidFull:
		return "ring full"
	case VoidMemory:
		return "out of ring memory"
	case VoidCorrupt:
		return "corrupt ring"
	}
	return fmt.Sprintf("VoidReason(%d)", uint32(r))
}

// State pictures the ring now. When the producer died in the middle of a change, it may show a part of it.
func (c *Consumer) State() State { return c.ring.State() }

// State pictures the ring now.
func (r *Ring) State() State {
	h := r.head
	var s State
	for range math.MaxUint16 {
		v := h.stateVersion.Load()
		s = r.picture()
		if v%2 == 0 && h.stateVersion.Load() == v {
			break
		}
	}
	return s
}

// picture reads everything once.
func (r *Ring) picture() State {
	h := r.head
	s := State{
		Epoch:      journal.Epoch(h.epoch.Load()),
		Last:       journal.Seq(h.last.Load()),
		Consumed:   journal.Seq(h.consumed.Load()),
		Void:       h.void.Load() != 0,
		Cut:        journal.Seq(h.cut.Load()),
		Voids:      h.voids.Load(),
		Reason:     VoidReason(h.reason.Load()),
		VoidWrites: h.voidWrites.Load(),
		VoidBytes:  h.voidBytes.Load(),
		Losses:     h.losses.Load(),
		Size:       int64(len(r.data)),
	}
	if tail, head := h.tail.Load(), h.head.Load(); tail <= head {
		s.Used = int64(min(head-tail, uint64(len(r.data))))
	}
	for i := range r.slots {
		m := &r.slots[i]
		if m.volume.Load() == 0 {
			break
		}
		s.Slots = append(s.Slots, Slot{
			Volume: journal.VolumeID(m.volume.Load()), State: SlotState(m.state.Load()), Size: int64(m.size.Load()),
			Offers: m.offers.Load(), Losses: m.losses.Load(),
		})
	}
	return s
}
