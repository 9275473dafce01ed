package api

import (
	"context"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }

func (o *operations) registerAll(a huma.API) {
	o.registerSystem(a)
	o.registerVMs(a)
	o.registerAgents(a)
	o.registerGroups(a)
	o.registerPoints(a)
	o.registerPlans(a)
	o.registerMounts(a)
	o.registerFiles(a)
	o.registerFailovers(a)
	o.registerReports(a)
	o.registerDrills(a)
	o.registerTasks(a)
}

func (o *operations) registerSystem(a huma.API) {
	register(o, a, op(http.MethodGet, "/info", "get-info", "About the hub"),
		func(ctx context.Context, _ *empty) (Info, error) { return o.svc.Info(ctx) })
}

func (o *operations) registerVMs(a huma.API) {
	type name struct {
		Name string `path:"name"`
	}
	type spec struct{ Body VMSpec }
	register(o, a, op(http.MethodGet, "/vms", "list-vms", "The VMs that were added, and their volumes"),
		func(ctx context.Context, _ *empty) (VMs, error) { return o.svc.ListVMs(ctx) })
	add := op(http.MethodPost, "/vms", "add-vm", "Add a VM")
	add.DefaultStatus = http.StatusCreated
	register(o, a, add, func(ctx context.Context, in *spec) (VM, error) { return o.svc.AddVM(ctx, in.Body) })
	registerNoBody(o, a, op(http.MethodDelete, "/vms/{name}", "remove-vm", "Forget a VM that no group protects"),
		func(ctx context.Context, in *name) error { return o.svc.RemoveVM(ctx, in.Name) })
}

// groupPath is the group of an operation's path.
type groupPath struct {
	Group string `path:"group"`
}

func (o *operations) registerGroups(a huma.API) {
	type which struct {
		Group string `query:"group" doc:"one group; default all"`
	}
	type protect struct{ Body ProtectRequest }
	type unprotect struct {
		Group string `path:"group"`
		Keep  bool   `query:"keep_history" doc:"keep what was recorded"`
	}
	register(o, a, op(http.MethodGet, "/status", "get-status", "The groups as they are now"),
		func(ctx context.Context, in *which) (Status, error) { return o.svc.Status(ctx, in.Group) })
	register(o, a, taskOp(http.MethodPost, "/groups", "protect", "Protect VMs as one consistency group"),
		func(ctx context.Context, in *protect) (Task, error) { return o.svc.Protect(ctx, in.Body) })
	register(o, a, taskOp(http.MethodDelete, "/groups/{group}", "unprotect", "End a group's protection"),
		func(ctx context.Context, in *unprotect) (Task, error) { return o.svc.Unprotect(ctx, in.Group, in.Keep) })
	register(o, a, taskOp(http.MethodPost, "/groups/{group}/pause", "pause", "Take the taps away for a while"),
		func(ctx context.Context, in *groupPath) (Task, error) { return o.svc.Pause(ctx, in.Group) })
	register(o, a, taskOp(http.MethodPost, "/groups/{group}/resume", "resume", "Put the taps back and sync what changed"),
		func(ctx context.Context, in *groupPath) (Task, error) { return o.svc.Resume(ctx, in.Group) })
}

func (o *operations) registerPoints(a huma.API) {
	type create struct {
		Group string `path:"group"`
		Body  CheckpointRequest
	}
	type list struct {
		Group  string    `path:"group"`
		Auto   int       `query:"auto" minimum:"0" maximum:"10000" default:"20" doc:"at most so many automatic ones, the newest"`
		Before time.Time `query:"before" doc:"only those at or before this time; default all"`
	}
	type auto struct {
		Group string `path:"group"`
		Body  AutoCheckpoints
	}
	type remove struct {
		Group string `path:"group"`
		Name  string `path:"name"`
	}
	type export struct {
		Group string `path:"group"`
		Body  ExportRequest
	}
	register(o, a, op(http.MethodGet, "/groups/{group}/checkpoints", "list-checkpoints", "A group's checkpoints"),
		func(ctx context.Context, in *list) (Checkpoints, error) {
			return o.svc.ListCheckpoints(ctx, in.Group, CheckpointQuery{in.Auto, in.Before})
		})
	register(o, a, op(http.MethodPut, "/groups/{group}/auto-checkpoints", "set-auto-checkpoints", "Set how far automatic checkpoints are apart"),
		func(ctx context.Context, in *auto) (AutoCheckpoints, error) {
			return o.svc.SetAutoCheckpoints(ctx, in.Group, in.Body)
		})
	add := op(http.MethodPost, "/groups/{group}/checkpoints", "create-checkpoint", "Name the newest point")
	add.DefaultStatus = http.StatusCreated
	register(o, a, add, func(ctx context.Context, in *create) (Checkpoint, error) {
		return o.svc.CreateCheckpoint(ctx, in.Group, in.Body)
	})
	registerNoBody(o, a, op(http.MethodDelete, "/groups/{group}/checkpoints/{name}", "remove-checkpoint", "Forget a checkpoint's name"),
		func(ctx context.Context, in *remove) error { return o.svc.RemoveCheckpoint(ctx, in.Group, in.Name) })
	register(o, a, taskOp(http.MethodPost, "/groups/{group}/exports", "export", "Write a point's volumes to files"),
		func(ctx context.Context, in *export) (Task, error) { return o.svc.Export(ctx, in.Group, in.Body) })
}

func (o *operations) registerPlans(a huma.API) {
	type set struct {
		Group string `path:"group"`
		Body  PlanText
	}
	register(o, a, op(http.MethodGet, "/groups/{group}/plan", "get-plan", "A group's recovery plan"),
		func(ctx context.Context, in *groupPath) (Plan, error) { return o.svc.Plan(ctx, in.Group) })
	register(o, a, op(http.MethodPut, "/groups/{group}/plan", "set-plan", "Replace the settings of a group's recovery plan"),
		func(ctx context.Context, in *set) (Plan, error) { return o.svc.SetPlan(ctx, in.Group, in.Body) })
}

func (o *operations) registerMounts(a huma.API) {
	type mount struct{ Body MountRequest }
	type unmount struct {
		ID    string `path:"id"`
		Force bool   `query:"force" doc:"cut connected clients off"`
	}
	register(o, a, op(http.MethodGet, "/mounts", "list-mounts", "What is mounted"),
		func(ctx context.Context, _ *empty) (Mounts, error) { return o.svc.ListMounts(ctx) })
	add := op(http.MethodPost, "/mounts", "mount", "Serve a group's volumes as they were at a point")
	add.DefaultStatus = http.StatusCreated
	register(o, a, add, func(ctx context.Context, in *mount) (Mount, error) { return o.svc.Mount(ctx, in.Body) })
	registerNoBody(o, a, op(http.MethodDelete, "/mounts/{id}", "unmount", "End a mount; its scratch layer is discarded"),
		func(ctx context.Context, in *unmount) error { return o.svc.Unmount(ctx, in.ID, in.Force) })
}

func (o *operations) registerFailovers(a huma.API) {
	type test struct {
		Group string `path:"group"`
		Body  FailoverRequest
	}
	type id struct {
		ID string `path:"id"`
	}
	register(o, a, taskOp(http.MethodPost, "/groups/{group}/failover-tests", "test-failover", "Start a group's VMs from a point, apart from everything"),
		func(ctx context.Context, in *test) (Task, error) { return o.svc.TestFailover(ctx, in.Group, in.Body) })
	type start struct {
		Group string `path:"group"`
		Body  FailoverStart
	}
	type group struct {
		Group string `path:"group"`
	}
	register(o, a, taskOp(http.MethodPost, "/groups/{group}/failover", "start-failover", "Start a group's VMs from a point, in place of those that it protects"),
		func(ctx context.Context, in *start) (Task, error) { return o.svc.StartFailover(ctx, in.Group, in.Body) })
	register(o, a, taskOp(http.MethodPost, "/groups/{group}/failover/commit", "commit-failover", "Keep the VMs of a failover, and move their volumes here"),
		func(ctx context.Context, in *group) (Task, error) { return o.svc.CommitFailover(ctx, in.Group) })
	register(o, a, taskOp(http.MethodPost, "/groups/{group}/failover/rollback", "rollback-failover", "End the VMs of a failover, and go on as before"),
		func(ctx context.Context, in *group) (Task, error) { return o.svc.RollbackFailover(ctx, in.Group) })
	register(o, a, op(http.MethodGet, "/failovers", "list-failovers", "VMs that run from points"),
		func(ctx context.Context, _ *empty) (Failovers, error) { return o.svc.ListFailovers(ctx) })
	registerNoBody(o, a, op(http.MethodDelete, "/failovers/{id}", "stop-failover", "End the VMs of a failover test and discard what they have written"),
		func(ctx context.Context, in *id) error { return o.svc.StopFailover(ctx, in.ID) })
}

func (o *operations) registerTasks(a huma.API) {
	type wait struct {
		ID    string `path:"id"`
		After uint64 `query:"after" doc:"a revision: answer when the task's is higher, or when the wait is over"`
		Wait  int    `query:"wait" minimum:"0" maximum:"60" doc:"seconds"`
	}
	type id struct {
		ID string `path:"id"`
	}
	register(o, a, op(http.MethodGet, "/tasks", "list-tasks", "Running tasks and the last that ended"),
		func(ctx context.Context, _ *empty) (Tasks, error) { return o.svc.ListTasks(ctx) })
	register(o, a, op(http.MethodGet, "/tasks/{id}", "get-task", "A task, now or after its next change"),
		func(ctx context.Context, in *wait) (Task, error) {
			ctx, cancel := context.WithTimeout(ctx, time.Duration(in.Wait)*time.Second)
			defer cancel()
			return o.svc.Task(ctx, in.ID, in.After)
		})
	register(o, a, op(http.MethodPost, "/tasks/{id}/cancel", "cancel-task", "Ask a task to end"),
		func(ctx context.Context, in *id) (Task, error) { return o.svc.CancelTask(ctx, in.ID) })
}
