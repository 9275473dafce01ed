package hub

import (
	"context"
	"errors"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/proof"
)

// ListReports implements api.Service.
func (h *Hub) ListReports(_ context.Context, group string) (api.Reports, error) {
	l := api.Reports{Reports: []api.Report{}}
	all, err := h.reports.List(group)
	if err != nil {
		h.cfg.Logger.Error("some reports cannot be read", "err", err)
	}
	if len(all) == 0 && group != "" {
		if _, ferr := h.find(group); ferr != nil {
			return l, ferr
		}
	}
	if len(all) == 0 && err != nil {
		return l, err
	}
	for i := range all {
		l.Reports = append(l.Reports, reportOf(&all[i]))
	}
	return l, nil
}

// Report implements api.Service.
func (h *Hub) Report(_ context.Context, which string) (api.Report, error) {
	r, err := h.findReport(which)
	if err != nil {
		return api.Report{}, err
	}
	return reportOf(&r), nil
}

// ReportPage implements api.Service.
func (h *Hub) ReportPage(_ context.Context, which string) (api.ReportPage, error) {
	r, err := h.findReport(which)
	if err != nil {
		return api.ReportPage{}, err
	}
	page, err := h.reports.Page(r)
	return api.ReportPage{ID: r.ID, HTML: string(page)}, err
}

func (h *Hub) findReport(which string) (proof.Report, error) {
	r, err := h.reports.Get(which)
	if errors.Is(err, proof.ErrNotFound) {
		err = api.Errorf(api.CodeNotFound, "no report of a group %s, and none with this id", which).
			WithHint("rephub report list shows them; rephub failover test %s makes one", which)
	}
	return r, err
}

func reportOf(r *proof.Report) api.Report {
	out := api.Report{
		ID: r.ID, Failover: r.Failover, Group: r.Group, Outcome: string(r.Outcome), Reason: r.Reason, Unchecked: r.Unchecked(), Drill: r.Drill, Stop: r.Stop,
		At: r.At, Seq: uint64(r.Seq), Time: r.Time, AgeSeconds: r.Age().Seconds(), Started: r.Started, Ended: r.Ended, RTOSeconds: r.RTO.Seconds(),
		Notes: r.Notes, Version: r.Version, VMs: []api.ReportVM{},
	}
	for _, v := range r.VMs {
		one := api.ReportVM{
			Name: v.Name, StartedSeconds: v.Started.Seconds(), Machine: v.Machine, QEMU: v.QEMU, Screen: v.Screen != "", NoScreen: v.NoScreen,
			Notes: v.Notes, Checks: []api.CheckResult{},
		}
		for _, c := range v.Checks {
			one.Checks = append(one.Checks, api.CheckResult{
				Kind: c.Kind, Asked: c.Asked, OK: c.OK, Detail: c.Detail, Output: c.Output, TookSeconds: c.Took.Seconds(), Tries: c.Tries,
			})
		}
		out.VMs = append(out.VMs, one)
	}
	return out
}
