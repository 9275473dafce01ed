// Package proof finds out whether VMs that were started from a point really came up, and keeps reports of it.
package proof

import (
	"time"
)

// Checks are what is to be seen of a VM before it counts as up. The zero value is nothing more than that QEMU runs it.
type Checks struct {
	// Command is for the shell of this host; it is tried again until it exits 0.
	Command string `json:"command,omitempty"`
	// Agent: the guest's QEMU guest agent answers a ping.
	Agent bool `json:"agent,omitempty"`
	// Screen: it shows something, and stands still.
	Screen bool `json:"screen,omitempty"`
	// Serial is a text that comes on one of the VM's serial lines.
	Serial string `json:"serial,omitempty"`
	// Timeout is for all of them together, from when the VM runs; 0: DefaultTimeout.
	Timeout time.Duration `json:"timeout_ns,omitempty"`
}

// DefaultTimeout is how long a VM has to come up when nobody says anything else.
const DefaultTimeout = 3 * time.Minute

// Any says whether anything is to be checked.
func (c Checks) Any() bool { return c.Command != "" || c.Agent || c.Screen || c.Serial != "" }

// With is c, and what more asks for beside or instead.
func (c Checks) With(more Checks) Checks {
	if more.Command != "" {
		c.Command = more.Command
	}
	if more.Serial != "" {
		c.Serial = more.Serial
	}
	if more.Timeout > 0 {
		c.Timeout = more.Timeout
	}
	c.Agent, c.Screen = c.Agent || more.Agent, c.Screen || more.Screen
	return c
}

// Kinds of checks. KindRunning is made of every VM, after all others.
const (
	KindRunning = "running"
	KindCommand = "command"
	KindAgent   = "agent"
	KindScreen  = "screen"
	KindSerial  = "serial"
)

// Result of one check.
type Result struct {
	Kind string `json:"kind"`
	// Asked is what was asked for: the command, the text.
	Asked string `json:"asked,omitempty"`
	OK    bool   `json:"ok"`
	// Detail says what was seen, or why it does not do.
	Detail string `json:"detail"`
	// Output is the end of what the command has said, or of what came on the serial lines.
	Output string        `json:"output,omitempty"`
	Took   time.Duration `json:"took_ns"`
	Tries  int           `json:"tries,omitempty"`
}

// Target is a VM that runs.
type Target struct {
	Group, Failover, Name string
	// Dir is its folder: monitor ("qmp"), what QEMU says ("log"), sockets of its character devices by their ids.
	Dir string
	// Alive tells whether its process is there.
	Alive func() (bool, error)
}

// Seen is what was seen of a VM.
type Seen struct {
	Results []Result
	// Screen is a picture, PNG; or NoScreen says why there is none.
	Screen        []byte
	Width, Height int
	Looked        time.Time
	NoScreen      string
	// QEMU is its version.
	QEMU string
}

// OK says whether all checks were passed.
func (s *Seen) OK() bool {
	for _, r := range s.Results {
		if !r.OK {
			return false
		}
	}
	return true
}
