package api

import "time"

// FailoverRequest starts a group's VMs from a point.
type FailoverRequest struct {
	At    string  `json:"at,omitempty" doc:"POINT; default latest"`
	Check *Checks `json:"check,omitempty" doc:"of all VMs, beside those of the plan"`
	Stop  bool    `json:"stop,omitempty" doc:"take the test away after the checks, however they end"`
}

// FailoverStart fails a group over.
type FailoverStart struct {
	At                     string  `json:"at,omitempty" doc:"POINT; default latest"`
	Planned                bool    `json:"planned,omitempty" doc:"shut the VMs down where they run first, and lose not one write"`
	ShutdownTimeoutSeconds float64 `json:"shutdown_timeout_seconds,omitempty" minimum:"0" doc:"how long the guests have to shut down; default 120"`
	CommitAfterSeconds     float64 `json:"commit_after_seconds,omitempty" minimum:"0" doc:"commit by itself then; default never"`
	Storage                string  `json:"storage,omitempty" doc:"folder on the hub's host to which the volumes move with the commit; default recovered in the hub's data"`
}

// Failover is a set of VMs that run from a point.
type Failover struct {
	ID         string       `json:"id" doc:"also of the mount that the VMs run from"`
	Group      string       `json:"group"`
	Kind       string       `json:"kind" enum:"test,failover"`
	State      string       `json:"state" enum:"starting,running,ended,stopping,stopped,committing,committed" doc:"ended: none of its VMs runs any more; stopping: also of a rollback; stopped: a test that was taken away after its checks"`
	Seq        uint64       `json:"seq"`
	Time       time.Time    `json:"time" doc:"of the point"`
	Started    time.Time    `json:"started"`
	RTOSeconds float64      `json:"rto_seconds" doc:"from the command until all VMs ran; 0 before"`
	Planned    bool         `json:"planned,omitempty"`
	CommitAt   *time.Time   `json:"commit_at,omitempty" doc:"when it is committed by itself"`
	MovedBytes int64        `json:"moved_bytes,omitempty" doc:"of a commit"`
	TotalBytes int64        `json:"total_bytes,omitempty"`
	Problem    string       `json:"problem,omitempty" doc:"what holds a commit or a rollback up; it is tried again"`
	Notes      []string     `json:"notes,omitempty" doc:"what became of the VMs where they were"`
	Report     string       `json:"report,omitempty" doc:"id of a test's report; in its task's result"`
	Checks     int          `json:"checks,omitempty" doc:"how many were passed, beside that QEMU runs the VMs; likewise"`
	VMs        []FailoverVM `json:"vms" nullable:"false"`
}

// FailoverVM is a VM of a failover.
type FailoverVM struct {
	Name           string   `json:"name"`
	Running        bool     `json:"running" doc:"whether its process is there"`
	StartedSeconds float64  `json:"started_seconds" doc:"after the command; 0: not yet"`
	QMP            string   `json:"qmp" doc:"its monitor, on the hub's host"`
	NamedQMP       string   `json:"named_qmp,omitempty" doc:"a second one, for an agent that is to protect it"`
	Files          []string `json:"files,omitempty" doc:"where its volumes are, once they have moved"`
	Log            string   `json:"log" doc:"the file with what QEMU says"`
	Notes          []string `json:"notes,omitempty" doc:"what it has not got, or not as before"`
}

// Failovers is a list, oldest first.
type Failovers struct {
	Failovers []Failover `json:"failovers" nullable:"false"`
}
