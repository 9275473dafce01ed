package proof

import (
	"time"

	"github.com/rephub/rephub/journal"
)

// Outcome of a test.
type Outcome string

// The outcomes.
const (
	// Passed: all VMs ran, and all checks that were asked for were passed.
	Passed Outcome = "passed"
	// Failed: a VM did not start, or a check was not passed.
	Failed Outcome = "failed"
	// Interrupted: the hub ended in between, so that it is not known.
	Interrupted Outcome = "interrupted"
	// Cancelled by a user.
	Cancelled Outcome = "cancelled"
)

// Report of a failover test. It is complete once it is kept, and does not change after that.
type Report struct {
	// ID is its name in the group's folder: TIME-ID, with the test's time and id.
	ID       string `json:"id"`
	Failover string `json:"failover"`
	Group    string `json:"group"`
	// Drill: the hub has made the test by itself, as scheduled.
	Drill bool `json:"drill,omitempty"`
	// Stop: the test is taken away after the checks in any case.
	Stop bool        `json:"stop,omitempty"`
	At   string      `json:"at,omitempty"` // what was asked for
	Seq  journal.Seq `json:"seq"`
	Time time.Time   `json:"time"` // of the point
	// Started is when the test was asked for, Ended when the last check was made.
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	// RTO is from Started until all VMs ran; 0: they did not.
	RTO     time.Duration `json:"rto_ns"`
	Outcome Outcome       `json:"outcome"`
	// Reason is why it is not Passed.
	Reason string   `json:"reason,omitempty"`
	Notes  []string `json:"notes,omitempty"`
	VMs    []VM     `json:"vms"`
	// Version is the hub's.
	Version string `json:"version"`
}

// VM of a report.
type VM struct {
	Name    string        `json:"name"`
	Started time.Duration `json:"started_ns"` // after the test was asked for; 0: it did not
	Machine string        `json:"machine,omitempty"`
	QEMU    string        `json:"qemu,omitempty"` // version
	Notes   []string      `json:"notes,omitempty"`
	Checks  []Result      `json:"checks"`
	// Screen is the file of the picture beside the report, Looked when it was taken, Width and Height its size on the screen in pixels; or NoScreen is why there is none.
	Screen   string    `json:"screen,omitempty"`
	Looked   time.Time `json:"looked,omitzero"`
	Width    int       `json:"width,omitempty"`
	Height   int       `json:"height,omitempty"`
	NoScreen string    `json:"no_screen,omitempty"`

	png []byte
}

// See puts what was seen of a VM into its part of the report.
func (v *VM) See(s Seen) {
	v.QEMU, v.Checks, v.NoScreen = s.QEMU, s.Results, s.NoScreen
	v.png, v.Width, v.Height, v.Looked = s.Screen, s.Width, s.Height, s.Looked
}

// OK says whether all of its checks were passed.
func (v *VM) OK() bool {
	s := Seen{Results: v.Checks}
	return s.OK() && len(v.Checks) > 0
}

// Unchecked says whether nothing more was looked at than whether QEMU runs it.
func (v *VM) Unchecked() bool { return len(v.Checks) == 1 && v.Checks[0].Kind == KindRunning }

// Age is how old the point was when the test was asked for.
func (r *Report) Age() time.Duration {
	if r.Time.IsZero() { // it did not get as far as a point
		return 0
	}
	return max(0, r.Started.Sub(r.Time))
}

// Unchecked says whether nothing more was looked at than whether QEMU runs the VMs.
func (r *Report) Unchecked() bool {
	for i := range r.VMs {
		if !r.VMs[i].Unchecked() {
			return false
		}
	}
	return len(r.VMs) > 0
}

// Judge sets the outcome from what was seen of the VMs.
func (r *Report) Judge() {
	r.Outcome, r.Reason = Passed, ""
	for i := range r.VMs {
		v := &r.VMs[i]
		for _, c := range v.Checks {
			if !c.OK && r.Outcome == Passed {
				r.Outcome, r.Reason = Failed, "VM "+v.Name+": "+c.Name()+": "+c.Detail
			}
		}
	}
}

// Name is a check for people.
func (r *Result) Name() string {
	switch r.Kind {
	case KindRunning:
		return "QEMU runs"
	case KindAgent:
		return "guest agent answers"
	case KindScreen:
		return "screen shows something"
	case KindSerial:
		return "serial line says " + r.Asked
	case KindCommand:
		return "command " + r.Asked
	}
	return r.Kind
}
