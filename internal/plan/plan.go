// Package plan is a group's recovery plan: what its VMs are, noted while they are protected, because their host can be asked no more once it is lost; and
// how people want them started elsewhere.
package plan

import (
	"maps"
	"slices"
	"time"

	"github.com/rephub/rephub/internal/vm"
)

// Plan of a group.
type Plan struct {
	VMs map[string]Captured `json:"vms"`
	// Text is what somebody has written (Parse), "" as long as nobody has.
	Text string `json:"text,omitempty"`
}

// Captured is what a VM was when it was last asked.
type Captured struct {
	vm.Definition
	// Since is when it was first like this.
	Since time.Time `json:"since"`
}

// names are the VMs in order.
func (p *Plan) names() []string { return slices.Sorted(maps.Keys(p.VMs)) }

// Settings are those of the text, or the defaults. An error, which is of Parse's, means that a VM or a network has gone that the text is about: the settings
// for the others count.
func (p *Plan) Settings() (Settings, error) {
	if p.Text == "" {
		return p.defaults(), nil
	}
	return Parse(p.Text, p.VMs)
}

// defaults are the settings for what the text says nothing of.
func (p *Plan) defaults() Settings {
	s := Settings{VMs: map[string]VM{}, Networks: map[string]Network{}}
	s.complete(p.VMs)
	return s
}

// Settings are what people decide.
type Settings struct {
	VMs map[string]VM
	// Networks maps what cards are connected to, as NetworkOf names it.
	Networks map[string]Network
	// Before and After are commands for the recovery host, one after the other: before the first VM starts, and after the last one has.
	Before, After []string
}

// VM is how one is started.
type VM struct {
	// Order: VMs of a lower one start first, those of the same one at once.
	Order int
	// Delay is how long to wait when the VM has started, before the next order.
	Delay         time.Duration
	CPUs          int   // 0: as it was
	Memory        int64 // bytes; 0: as it was
	Before, After []string
	// Check is what is looked at in a failover test.
	Check Check
}

// Check is what is to be seen of a VM before it counts as up. The zero value is that QEMU runs it.
type Check struct {
	// Command is for the recovery host; it is tried again until it exits 0.
	Command string
	// Agent: the guest's QEMU guest agent answers. Screen: it shows something and stands still.
	Agent, Screen bool
	// Serial is a text that comes on a serial line.
	Serial string
	// Timeout is for all of them together; 0: the default.
	Timeout time.Duration
}

// Network is what takes the place of one.
type Network struct {
	Failover, Test Target
}

// Target is what a card is connected to. The zero value is Isolated.
type Target struct {
	Kind string // "", SameKind, "bridge", "tap" or "network"
	Name string
}

// SameKind is the target that is what the card was connected to.
const SameKind = "same"

// Isolated is a network out of which nothing gets.
var Isolated = Target{}

// String is as Parse reads it.
func (t Target) String() string {
	switch t.Kind {
	case "":
		return "isolated"
	case SameKind:
		return t.Kind
	}
	return t.Kind + " " + t.Name
}

// NetworkOf names what a card is connected to: "bridge br0", "user".
func NetworkOf(n vm.NIC) string {
	if n.Network == "" {
		return n.Backend
	}
	return n.Backend + " " + n.Network
}

// complete fills in the defaults: a failover goes to networks of the same name, a test is isolated.
func (s *Settings) complete(vms map[string]Captured) {
	for name, c := range vms {
		if _, ok := s.VMs[name]; !ok {
			s.VMs[name] = VM{Order: 1}
		}
		for _, n := range c.NICs {
			if _, ok := s.Networks[NetworkOf(n)]; !ok {
				s.Networks[NetworkOf(n)] = Network{Failover: Target{Kind: SameKind}}
			}
		}
	}
}
