package api

import "time"

// FailoverRequest starts a group's VMs from a point.
type FailoverRequest struct {
	At string `json:"at,omitempty" doc:"POINT; default latest"`
}

// Failover is a set of VMs that run from a point.
type Failover struct {
	ID         string       `json:"id" doc:"also of the mount that the VMs run from"`
	Group      string       `json:"group"`
	Kind       string       `json:"kind" enum:"test"`
	State      string       `json:"state" enum:"starting,running,ended,stopping" doc:"ended: none of its VMs runs any more"`
	Seq        uint64       `json:"seq"`
	Time       time.Time    `json:"time" doc:"of the point"`
	Started    time.Time    `json:"started"`
	RTOSeconds float64      `json:"rto_seconds" doc:"from the command until all VMs ran; 0 before"`
	VMs        []FailoverVM `json:"vms" nullable:"false"`
}

// FailoverVM is a VM of a failover.
type FailoverVM struct {
	Name           string   `json:"name"`
	Running        bool     `json:"running" doc:"whether its process is there"`
	StartedSeconds float64  `json:"started_seconds" doc:"after the command; 0: not yet"`
	QMP            string   `json:"qmp" doc:"its monitor, on the hub's host"`
	Log            string   `json:"log" doc:"the file with what QEMU says"`
	Notes          []string `json:"notes,omitempty" doc:"what it has not got, or not as before"`
}

// Failovers is a list, oldest first.
type Failovers struct {
	Failovers []Failover `json:"failovers" nullable:"false"`
}
