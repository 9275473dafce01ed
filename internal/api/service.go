package api

import "context"

// Service is what the HTTP interface asks of a hub, split by role. Errors are
// *Error where the client should be told something better than "internal"; an
// error with a method Hint() string passes its hint on. Methods may be called
// concurrently.
type Service interface {
	System
	VMService
	AgentService
	Groups
	Points
	Plans
	Recovery
	FileService
	FailoverService
	ReportService
	DrillService
	TaskService
}

// System is about the hub itself.
type System interface {
	Info(ctx context.Context) (Info, error)
}

// VMService keeps the list of VMs.
type VMService interface {
	AddVM(ctx context.Context, spec VMSpec) (VM, error)
	ListVMs(ctx context.Context) (VMs, error)
	// RemoveVM refuses while a group has volumes of the VM.
	RemoveVM(ctx context.Context, name string) error
}

// Groups starts and ends protection. The tasks are done when the taps are in
// place or gone; the sync that follows shows in the status.
type Groups interface {
	Protect(ctx context.Context, req ProtectRequest) (Task, error)
	// Unprotect takes the taps away, and the history too unless keepHistory.
	Unprotect(ctx context.Context, group string, keepHistory bool) (Task, error)
	Pause(ctx context.Context, group string) (Task, error)
	Resume(ctx context.Context, group string) (Task, error)
	// Status is of one group, or of all when group is empty.
	Status(ctx context.Context, group string) (Status, error)
}

// Points are the named recovery points.
type Points interface {
	CreateCheckpoint(ctx context.Context, group string, req CheckpointRequest) (Checkpoint, error)
	ListCheckpoints(ctx context.Context, group string, q CheckpointQuery) (Checkpoints, error)
	// SetAutoCheckpoints changes what is listed of the whole history, and returns what was set.
	SetAutoCheckpoints(ctx context.Context, group string, set AutoCheckpoints) (AutoCheckpoints, error)
	// RemoveCheckpoint forgets a name; its point is kept no longer than others.
	RemoveCheckpoint(ctx context.Context, group, name string) error
}

// Plans say how a group's VMs are started elsewhere.
type Plans interface {
	Plan(ctx context.Context, group string) (Plan, error)
	// SetPlan replaces the settings; nothing changes when one of them is wrong.
	SetPlan(ctx context.Context, group string, text PlanText) (Plan, error)
}

// Recovery opens points.
type Recovery interface {
	Mount(ctx context.Context, req MountRequest) (Mount, error)
	ListMounts(ctx context.Context) (Mounts, error)
	// Unmount refuses while clients are connected, unless force.
	Unmount(ctx context.Context, id string, force bool) error
	Export(ctx context.Context, group string, req ExportRequest) (Task, error)
}

// FileService reads files out of points.
type FileService interface {
	// ListFiles tells where there are file systems, or what a path leads to.
	ListFiles(ctx context.Context, group string, req FilesRequest) (FileList, error)
	// OpenFile begins to read a file. The caller closes the content.
	OpenFile(ctx context.Context, group string, req FileRequest) (*FileContent, error)
}

// FailoverService starts VMs from points.
type FailoverService interface {
	// TestFailover's task has a Failover as its result; when it fails nothing is left of it.
	TestFailover(ctx context.Context, group string, req FailoverRequest) (Task, error)
	// StartFailover's task has a Failover as its result; when it fails all is as it was.
	StartFailover(ctx context.Context, group string, req FailoverStart) (Task, error)
	// CommitFailover has decided, durably, when it returns; its task follows the volumes
	// to where they stay, and has the Failover as its result.
	CommitFailover(ctx context.Context, group string) (Task, error)
	// RollbackFailover's task ends when the group is as it was before.
	RollbackFailover(ctx context.Context, group string) (Task, error)
	ListFailovers(ctx context.Context) (Failovers, error)
	// StopFailover ends the VMs of a test, and discards what they have written.
	StopFailover(ctx context.Context, id string) error
}

// TaskService follows long work.
type TaskService interface {
	// Task returns the task once its revision is above after, or when ctx
	// ends, as it is then.
	Task(ctx context.Context, id string, after uint64) (Task, error)
	ListTasks(ctx context.Context) (Tasks, error)
	// CancelTask asks the task to end; a finished one stays as it is.
	CancelTask(ctx context.Context, id string) (Task, error)
}
