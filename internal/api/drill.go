package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// DrillService makes failover tests by itself.
type DrillService interface {
	// ScheduleDrill has a group tested every night from now on, or at another time.
	ScheduleDrill(ctx context.Context, group string, req DrillRequest) (Drill, error)
	ListDrills(ctx context.Context) (Drills, error)
	RemoveDrill(ctx context.Context, group string) error
	// RunDrill makes one now; its task has a Failover as its result.
	RunDrill(ctx context.Context, group string) (Task, error)
}

// DrillRequest schedules drills.
type DrillRequest struct {
	At    string  `json:"at" pattern:"^([01][0-9]|2[0-3]):[0-5][0-9]$" doc:"HH:MM in the time zone of the hub's host"`
	Check *Checks `json:"check,omitempty" doc:"of all VMs, beside those of the plan"`
}

// Drill is a group's failover test that is made every night.
type Drill struct {
	Group       string       `json:"group"`
	At          string       `json:"at" doc:"HH:MM in the time zone of the hub's host"`
	Next        time.Time    `json:"next"`
	Running     bool         `json:"running,omitempty"`
	Check       *Checks      `json:"check,omitempty"`
	Last        *DrillResult `json:"last,omitempty"`
	LastSuccess *time.Time   `json:"last_success,omitempty"`
}

// DrillResult is how a drill ended.
type DrillResult struct {
	Due        time.Time `json:"due"`
	Ended      time.Time `json:"ended"`
	Outcome    string    `json:"outcome" enum:"passed,failed,interrupted,cancelled,missed" doc:"missed: the hub was down"`
	Reason     string    `json:"reason,omitempty"`
	RTOSeconds float64   `json:"rto_seconds,omitempty"`
	Report     string    `json:"report,omitempty" doc:"its id"`
}

// Drills is a list, by group.
type Drills struct {
	Drills []Drill `json:"drills" nullable:"false"`
}

func (o *operations) registerDrills(a huma.API) {
	type schedule struct {
		Group string `path:"group"`
		Body  DrillRequest
	}
	register(o, a, op(http.MethodPut, "/groups/{group}/drill", "schedule-drill", "Test a group's failover every night"),
		func(ctx context.Context, in *schedule) (Drill, error) {
			return o.svc.ScheduleDrill(ctx, in.Group, in.Body)
		})
	register(o, a, op(http.MethodGet, "/drills", "list-drills", "What is tested every night, and how that ended"),
		func(ctx context.Context, _ *empty) (Drills, error) { return o.svc.ListDrills(ctx) })
	registerNoBody(o, a, op(http.MethodDelete, "/groups/{group}/drill", "remove-drill", "Test a group's failover no more"),
		func(ctx context.Context, in *groupPath) error { return o.svc.RemoveDrill(ctx, in.Group) })
	register(o, a, taskOp(http.MethodPost, "/groups/{group}/drill/run", "run-drill", "Make a group's drill now"),
		func(ctx context.Context, in *groupPath) (Task, error) { return o.svc.RunDrill(ctx, in.Group) })
}

// ScheduleDrill implements Service.
func (c *Client) ScheduleDrill(ctx context.Context, group string, req DrillRequest) (Drill, error) {
	return call[Drill](ctx, c, http.MethodPut, groupURL(group)+"/drill", req)
}

// ListDrills implements Service.
func (c *Client) ListDrills(ctx context.Context) (Drills, error) {
	return call[Drills](ctx, c, http.MethodGet, "/drills", nil)
}

// RemoveDrill implements Service.
func (c *Client) RemoveDrill(ctx context.Context, group string) error {
	_, err := call[empty](ctx, c, http.MethodDelete, groupURL(group)+"/drill", nil)
	return err
}

// RunDrill implements Service.
func (c *Client) RunDrill(ctx context.Context, group string) (Task, error) {
	return call[Task](ctx, c, http.MethodPost, groupURL(group)+"/drill/run", nil)
}
