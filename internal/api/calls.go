package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

var _ Service = (*Client)(nil)

// Info implements Service.
func (c *Client) Info(ctx context.Context) (Info, error) {
	return call[Info](ctx, c, http.MethodGet, "/info", nil)
}

// AddVM implements Service.
func (c *Client) AddVM(ctx context.Context, spec VMSpec) (VM, error) {
	return call[VM](ctx, c, http.MethodPost, "/vms", spec)
}

// ListVMs implements Service.
func (c *Client) ListVMs(ctx context.Context) (VMs, error) {
	return call[VMs](ctx, c, http.MethodGet, "/vms", nil)
}

// RemoveVM implements Service.
func (c *Client) RemoveVM(ctx context.Context, name string) error {
	_, err := call[empty](ctx, c, http.MethodDelete, "/vms/"+url.PathEscape(name), nil)
	return err
}

// Protect implements Service.
func (c *Client) Protect(ctx context.Context, req ProtectRequest) (Task, error) {
	return call[Task](ctx, c, http.MethodPost, "/groups", req)
}

func groupURL(group string) string { return "/groups/" + url.PathEscape(group) }

// Unprotect implements Service.
func (c *Client) Unprotect(ctx context.Context, group string, keepHistory bool) (Task, error) {
	return call[Task](ctx, c, http.MethodDelete, groupURL(group)+"?keep_history="+strconv.FormatBool(keepHistory), nil)
}

// Pause implements Service.
func (c *Client) Pause(ctx context.Context, group string) (Task, error) {
	return call[Task](ctx, c, http.MethodPost, groupURL(group)+"/pause", nil)
}

// Resume implements Service.
func (c *Client) Resume(ctx context.Context, group string) (Task, error) {
	return call[Task](ctx, c, http.MethodPost, groupURL(group)+"/resume", nil)
}

// Status implements Service.
func (c *Client) Status(ctx context.Context, group string) (Status, error) {
	return call[Status](ctx, c, http.MethodGet, "/status?group="+url.QueryEscape(group), nil)
}

// CreateCheckpoint implements Service.
func (c *Client) CreateCheckpoint(ctx context.Context, group string, req CheckpointRequest) (Checkpoint, error) {
	return call[Checkpoint](ctx, c, http.MethodPost, groupURL(group)+"/checkpoints", req)
}

// ListCheckpoints implements Service.
func (c *Client) ListCheckpoints(ctx context.Context, group string, q CheckpointQuery) (Checkpoints, error) {
	v := url.Values{"auto": {strconv.Itoa(q.Auto)}}
	if !q.Before.IsZero() {
		v.Set("before", q.Before.Format(time.RFC3339Nano))
	}
	return call[Checkpoints](ctx, c, http.MethodGet, groupURL(group)+"/checkpoints?"+v.Encode(), nil)
}

// SetAutoCheckpoints implements Service.
func (c *Client) SetAutoCheckpoints(ctx context.Context, group string, set AutoCheckpoints) (AutoCheckpoints, error) {
	return call[AutoCheckpoints](ctx, c, http.MethodPut, groupURL(group)+"/auto-checkpoints", set)
}

// RemoveCheckpoint implements Service.
func (c *Client) RemoveCheckpoint(ctx context.Context, group, name string) error {
	_, err := call[empty](ctx, c, http.MethodDelete, groupURL(group)+"/checkpoints/"+url.PathEscape(name), nil)
	return err
}

// Plan implements Service.
func (c *Client) Plan(ctx context.Context, group string) (Plan, error) {
	return call[Plan](ctx, c, http.MethodGet, groupURL(group)+"/plan", nil)
}

// SetPlan implements Service.
func (c *Client) SetPlan(ctx context.Context, group string, text PlanText) (Plan, error) {
	return call[Plan](ctx, c, http.MethodPut, groupURL(group)+"/plan", text)
}

// Export implements Service.
func (c *Client) Export(ctx context.Context, group string, req ExportRequest) (Task, error) {
	return call[Task](ctx, c, http.MethodPost, groupURL(group)+"/exports", req)
}

// Mount implements Service.
func (c *Client) Mount(ctx context.Context, req MountRequest) (Mount, error) {
	return call[Mount](ctx, c, http.MethodPost, "/mounts", req)
}

// ListMounts implements Service.
func (c *Client) ListMounts(ctx context.Context) (Mounts, error) {
	return call[Mounts](ctx, c, http.MethodGet, "/mounts", nil)
}

// Unmount implements Service.
func (c *Client) Unmount(ctx context.Context, id string, force bool) error {
	_, err := call[empty](ctx, c, http.MethodDelete, "/mounts/"+url.PathEscape(id)+"?force="+strconv.FormatBool(force), nil)
	return err
}

// TestFailover implements Service.
func (c *Client) TestFailover(ctx context.Context, group string, req FailoverRequest) (Task, error) {
	return call[Task](ctx, c, http.MethodPost, groupURL(group)+"/failover-tests", req)
}

// StartFailover implements Service.
func (c *Client) StartFailover(ctx context.Context, group string, req FailoverStart) (Task, error) {
	return call[Task](ctx, c, http.MethodPost, groupURL(group)+"/failover", req)
}

// CommitFailover implements Service.
func (c *Client) CommitFailover(ctx context.Context, group string) (Task, error) {
	return call[Task](ctx, c, http.MethodPost, groupURL(group)+"/failover/commit", nil)
}

// RollbackFailover implements Service.
func (c *Client) RollbackFailover(ctx context.Context, group string) (Task, error) {
	return call[Task](ctx, c, http.MethodPost, groupURL(group)+"/failover/rollback", nil)
}

// ListFailovers implements Service.
func (c *Client) ListFailovers(ctx context.Context) (Failovers, error) {
	return call[Failovers](ctx, c, http.MethodGet, "/failovers", nil)
}

// StopFailover implements Service.
func (c *Client) StopFailover(ctx context.Context, id string) error {
	_, err := call[empty](ctx, c, http.MethodDelete, "/failovers/"+url.PathEscape(id), nil)
	return err
}

// taskWait is how long one request for a task's next change may take.
const taskWait = 30 * time.Second

// Task implements Service. With a revision in after it may return the task
// unchanged after a while.
func (c *Client) Task(ctx context.Context, id string, after uint64) (Task, error) {
	path := "/tasks/" + url.PathEscape(id)
	if after > 0 {
		path += fmt.Sprintf("?after=%d&wait=%d", after, int(taskWait.Seconds()))
	}
	return call[Task](ctx, c, http.MethodGet, path, nil)
}

// ListTasks implements Service.
func (c *Client) ListTasks(ctx context.Context) (Tasks, error) {
	return call[Tasks](ctx, c, http.MethodGet, "/tasks", nil)
}

// CancelTask implements Service.
func (c *Client) CancelTask(ctx context.Context, id string) (Task, error) {
	return call[Task](ctx, c, http.MethodPost, "/tasks/"+url.PathEscape(id)+"/cancel", nil)
}
