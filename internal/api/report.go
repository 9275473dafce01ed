package api

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Reports are what is kept of failover tests.
type Reports struct {
	Reports []Report `json:"reports" nullable:"false"`
}

// ReportService keeps proof of failover tests.
type ReportService interface {
	// ListReports are those of a group, or of all when group is empty, the newest first.
	ListReports(ctx context.Context, group string) (Reports, error)
	// Report is the newest one of a group, or one by its id or that of its test.
	Report(ctx context.Context, which string) (Report, error)
	ReportPage(ctx context.Context, which string) (ReportPage, error)
}

// Checks are what is to be seen of VMs before they count as up.
type Checks struct {
	Command        string  `json:"command,omitempty" maxLength:"4096" doc:"for the shell of the hub's host, with REPHUB_VM and others in its environment; tried again until it exits 0"`
	Agent          bool    `json:"agent,omitempty" doc:"the QEMU guest agent answers"`
	Screen         bool    `json:"screen,omitempty" doc:"the screen shows something, and stands still"`
	Serial         string  `json:"serial,omitempty" maxLength:"1024" doc:"a text that comes on a serial line"`
	TimeoutSeconds float64 `json:"timeout_seconds,omitempty" minimum:"0" maximum:"86400" doc:"for all of a VM's checks together; default 180"`
}

// Report of a failover test.
type Report struct {
	ID         string     `json:"id"`
	Failover   string     `json:"failover" doc:"id of the test"`
	Group      string     `json:"group"`
	Outcome    string     `json:"outcome" enum:"passed,failed,interrupted,cancelled"`
	Reason     string     `json:"reason,omitempty" doc:"why it was not passed"`
	Unchecked  bool       `json:"unchecked,omitempty" doc:"nothing more was looked at than whether QEMU runs the VMs"`
	Drill      bool       `json:"drill,omitempty" doc:"made by the hub, as scheduled"`
	Stop       bool       `json:"stop,omitempty" doc:"the test was taken away after the checks"`
	At         string     `json:"at,omitempty" doc:"POINT that was asked for"`
	Seq        uint64     `json:"seq"`
	Time       time.Time  `json:"time" doc:"of the point"`
	AgeSeconds float64    `json:"age_seconds" doc:"of the point when the test was asked for"`
	Started    time.Time  `json:"started"`
	Ended      time.Time  `json:"ended" doc:"when the last check was made"`
	RTOSeconds float64    `json:"rto_seconds" doc:"until all VMs ran; 0: they did not"`
	Notes      []string   `json:"notes,omitempty"`
	Version    string     `json:"version" doc:"of the hub"`
	VMs        []ReportVM `json:"vms" nullable:"false"`
}

// ReportVM is a VM of a report.
type ReportVM struct {
	Name           string        `json:"name"`
	StartedSeconds float64       `json:"started_seconds" doc:"after the test was asked for; 0: it did not start"`
	Machine        string        `json:"machine,omitempty"`
	QEMU           string        `json:"qemu,omitempty" doc:"version"`
	Screen         bool          `json:"screen,omitempty" doc:"whether the page has a picture of its screen"`
	NoScreen       string        `json:"no_screen,omitempty" doc:"why not"`
	Notes          []string      `json:"notes,omitempty"`
	Checks         []CheckResult `json:"checks" nullable:"false"`
}

// CheckResult is how a check ended.
type CheckResult struct {
	Kind        string  `json:"kind" enum:"running,command,agent,screen,serial"`
	Asked       string  `json:"asked,omitempty" doc:"the command, or the text"`
	OK          bool    `json:"ok"`
	Detail      string  `json:"detail" doc:"what was seen"`
	Output      string  `json:"output,omitempty" doc:"the end of what the command said, or of what came on the serial lines"`
	TookSeconds float64 `json:"took_seconds"`
	Tries       int     `json:"tries,omitempty"`
}

// ReportPage is a report as a page.
type ReportPage struct {
	ID   string `json:"id"`
	HTML string `json:"html" doc:"one page that needs nothing else"`
}

func (o *operations) registerReports(a huma.API) {
	type list struct {
		Group string `query:"group" doc:"one group; default all"`
	}
	type which struct {
		ID string `path:"id" doc:"of the report or of its test, or a group: its newest one"`
	}
	register(o, a, op(http.MethodGet, "/reports", "list-reports", "Reports of failover tests"),
		func(ctx context.Context, in *list) (Reports, error) { return o.svc.ListReports(ctx, in.Group) })
	register(o, a, op(http.MethodGet, "/reports/{id}", "get-report", "A report"),
		func(ctx context.Context, in *which) (Report, error) { return o.svc.Report(ctx, in.ID) })
	register(o, a, op(http.MethodGet, "/reports/{id}/page", "get-report-page", "A report as a page for people"),
		func(ctx context.Context, in *which) (ReportPage, error) { return o.svc.ReportPage(ctx, in.ID) })
}

// ListReports implements Service.
func (c *Client) ListReports(ctx context.Context, group string) (Reports, error) {
	return call[Reports](ctx, c, http.MethodGet, "/reports?group="+url.QueryEscape(group), nil)
}

// Report implements Service.
func (c *Client) Report(ctx context.Context, which string) (Report, error) {
	return call[Report](ctx, c, http.MethodGet, "/reports/"+url.PathEscape(which), nil)
}

// ReportPage implements Service.
func (c *Client) ReportPage(ctx context.Context, which string) (ReportPage, error) {
	return call[ReportPage](ctx, c, http.MethodGet, "/reports/"+url.PathEscape(which)+"/page", nil)
}
