package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/drill"
	"github.com/rephub/rephub/internal/failover"
	"github.com/rephub/rephub/internal/proof"
	"github.com/rephub/rephub/internal/recovery"
)

// trial is a failover test on its way to its report.
type trial struct {
	checks proof.Checks // of all VMs, beside those of the plan
	stop   bool         // taken away after the checks, however they end
	drill  bool
	done   func() // called when it has ended; nil: none
}

// checksOf are those that a client asks for.
func checksOf(c *api.Checks) (proof.Checks, error) {
	if c == nil {
		return proof.Checks{}, nil
	}
	if strings.ContainsRune(c.Command, 0) {
		return proof.Checks{}, api.Errorf(api.CodeInvalid, "the command has a zero byte")
	}
	return proof.Checks{Command: c.Command, Agent: c.Agent, Screen: c.Screen, Serial: c.Serial, Timeout: seconds(c.TimeoutSeconds)}, nil
}

// startTrial is the task of a failover test. What cannot be done is told before the task is made.
func (h *Hub) startTrial(group, at string, t trial) (api.Task, error) {
	kind := map[bool]string{false: "failover-test", true: "drill"}[t.drill]
	return h.startVMs(kind, group, failover.Spec{Kind: failover.Test, At: at}, func(ctx context.Context, s failover.Spec, progress func(string)) (any, error) {
		if t.done != nil {
			defer t.done()
		}
		return h.try(ctx, s, t, progress)
	})
}

// try makes a failover test, and a report of it whatever comes: that it was begun is noted first, and the next hub reports on what this one does not get done.
func (h *Hub) try(ctx context.Context, s failover.Spec, t trial, step func(string)) (any, error) {
	r := proof.Report{
		Failover: s.ID, Group: s.Group, Drill: t.drill, Stop: t.stop, At: s.At, Seq: s.Seq, Time: s.Time,
		Started: time.Now().UTC(), Version: h.cfg.Version,
	}
	r.ID = proof.NewID(r.Started, s.ID)
	for _, v := range s.VMs {
		r.VMs = append(r.VMs, proof.VM{Name: v.Name})
	}
	if err := h.reports.Begin(r); err != nil {
		return nil, fmt.Errorf("note that a failover test begins: %w", err)
	}
	rec, err := h.failovers.Start(ctx, s, step)
	if err != nil {
		if h.tasks.stopping() {
			return nil, err
		}
		err = failoverError(s.Group, nothingLeft, err)
		r.Outcome, r.Reason = proof.Failed, err.Error()
		if ctx.Err() != nil {
			r.Outcome, r.Reason = proof.Cancelled, "it was cancelled while the VMs were being started"
		}
		return nil, errors.Join(err, h.settle(&r))
	}
	step("checking")
	h.checkVMs(ctx, rec, t, &r)
	if h.tasks.stopping() {
		return nil, ctx.Err()
	}
	r.RTO, r.Started, r.Notes = rec.RTO, rec.Started, rec.Notes
	r.Judge()
	if ctx.Err() != nil {
		r.Outcome, r.Reason, r.Stop = proof.Cancelled, "it was cancelled while checks were made", true
	}
	out := failoverOf(rec)
	step("keeping the report")
	if err := h.settle(&r); err != nil {
		return nil, err
	}
	out.Report = r.ID
	if r.Stop {
		out.State = "stopped"
		for i := range out.VMs {
			out.VMs[i].Running = false
		}
	}
	for _, v := range r.VMs {
		out.Checks += len(v.Checks) - 1
	}
	switch r.Outcome {
	case proof.Cancelled:
		return nil, ctx.Err()
	case proof.Failed:
		return nil, notUp(&r)
	}
	return out, nil
}

// nothingLeft is for hints.
const nothingLeft = "nothing is left of the test"

// notUp tells of all checks that were not passed.
func notUp(r *proof.Report) error {
	var failed []string
	for _, v := range r.VMs {
		for _, c := range v.Checks {
			if !c.OK {
				failed = append(failed, fmt.Sprintf("VM %s: %s: %s", v.Name, c.Name(), c.Detail))
			}
		}
	}
	e := api.Errorf(api.CodeCheck, "the failover test of group %s was not passed: %s", r.Group, failed[0])
	e.Fields = failed[1:]
	rest := fmt.Sprintf("the VMs run on, so that you can look: rephub failover list; rephub failover stop %s ends them", r.Failover)
	if r.Stop {
		rest = "the test was taken away"
	}
	return e.WithHint("rephub report show %s shows the report; %s", r.ID, rest)
}

// checkVMs makes the checks of all VMs at once.
func (h *Hub) checkVMs(ctx context.Context, rec failover.Record, t trial, r *proof.Report) {
	wanted, machines := map[string]proof.Checks{}, map[string]string{}
	if e, err := h.findPlan(r.Group); err == nil {
		p := e.plan.Plan()
		set, _ := p.Settings() // what has gone was told before the test began
		for name, v := range set.VMs {
			wanted[name] = proof.Checks(v.Check)
		}
		for name, c := range p.VMs {
			machines[name] = c.Machine
		}
	}
	r.VMs = make([]proof.VM, len(rec.VMs))
	var looking errgroup.Group
	for i := range rec.VMs {
		v := &rec.VMs[i]
		r.VMs[i] = proof.VM{Name: v.Name, Started: v.Started, Machine: machines[v.Name], Notes: v.Notes}
		looking.Go(func() error {
			target := proof.Target{Group: rec.Group, Failover: rec.ID, Name: v.Name, Dir: v.Dir, Alive: v.Alive}
			r.VMs[i].See(proof.Run(ctx, target, wanted[v.Name].With(t.checks)))
			return nil
		})
	}
	_ = looking.Wait() // what went wrong is in the report
	r.Ended = time.Now().UTC()
}

// takeAwayPatience bounds ending a test after its checks.
const takeAwayPatience = 30 * time.Second

// settle keeps a report, takes the test away if it is to be, and notes how a drill ended. A hub that is killed in between leaves a note for the next one, which does what is left to do.
func (h *Hub) settle(r *proof.Report) error {
	if r.Ended.IsZero() {
		r.Ended = time.Now().UTC()
	}
	if err := h.reports.Finish(r); err != nil {
		r.ID = "" // there is none to look for
		h.cfg.Logger.Error("keep the report of a failover test", "group", r.Group, "failover", r.Failover, "outcome", r.Outcome, "reason", r.Reason, "err", err)
		return errors.Join(err, h.conclude(r))
	}
	log := h.cfg.Logger.Info
	if r.Outcome != proof.Passed {
		log = h.cfg.Logger.Error
	}
	log("failover test", "group", r.Group, "drill", r.Drill, "outcome", r.Outcome, "reason", r.Reason, "rto", r.RTO, "report", r.ID)
	return h.conclude(r)
}

// conclude does what comes after the report.
func (h *Hub) conclude(r *proof.Report) error {
	var errs []error
	if r.Stop {
		ctx, cancel := context.WithTimeout(context.Background(), takeAwayPatience) // also when the task was cancelled
		defer cancel()
		if err := h.failovers.Stop(ctx, r.Failover); err != nil && !errors.Is(err, failover.ErrNotFound) {
			// One whose end was begun is ended by the failovers themselves.
			if now, gerr := h.failovers.Get(r.Failover); gerr == nil && now.Phase != failover.Stopping {
				return fmt.Errorf("take failover test %s away: %w", r.Failover, err)
			}
			errs = append(errs, fmt.Errorf("take failover test %s away: %w", r.Failover, err))
		}
	}
	if r.Drill {
		if err := h.drillEnded(r); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	return errors.Join(append(errs, h.reports.Done(r.Failover))...)
}

// drillEnded notes how a drill ended.
func (h *Hub) drillEnded(r *proof.Report) error {
	e, err := h.find(r.Group)
	if err != nil || e.drill == nil {
		return nil // the group has been removed
	}
	err = e.drill.End(drill.Outcome{Ended: r.Ended, Outcome: r.Outcome, RTO: r.RTO, Report: r.ID, Reason: r.Reason})
	if errors.Is(err, drill.ErrClosed) {
		return nil
	}
	return err
}

// restoreTrials reports on the tests that an earlier hub did not get done. The failovers have been restored: tests that were being started are gone.
func (h *Hub) restoreTrials() {
	pending, err := h.reports.Pending()
	if err != nil {
		h.cfg.Logger.Error("find the failover tests that were interrupted", "err", err)
	}
	for i := range pending {
		r := &pending[i]
		if known, err := h.reports.Get(r.ID); err == nil {
			err = h.conclude(&known)
			if err != nil {
				h.cfg.Logger.Error("finish a failover test", "failover", r.Failover, "err", err)
			}
			continue
		}
		r.Outcome, r.Reason = proof.Interrupted, "the hub ended before the test did; whether the VMs came up is not known"
		rec, err := h.failovers.Get(r.Failover)
		if err == nil {
			r.RTO = rec.RTO
			for j := range r.VMs {
				r.VMs[j].NoScreen = "the hub ended before one was taken"
				if j < len(rec.VMs) {
					r.VMs[j].Started, r.VMs[j].Notes = rec.VMs[j].Started, rec.VMs[j].Notes
				}
			}
		}
		if err := h.settle(r); err != nil {
			h.cfg.Logger.Error("report on a failover test that was interrupted", "failover", r.Failover, "err", err)
		}
	}
}

// failedTrial keeps a report of a drill that could not even be begun.
func (h *Hub) failedTrial(group string, outcome proof.Outcome, why string) error {
	id := recovery.NewID()
	now := time.Now().UTC()
	return h.settle(&proof.Report{
		ID: proof.NewID(now, id), Failover: id, Group: group, Drill: true, Stop: true, Started: now, Ended: now,
		Outcome: outcome, Reason: cmp.Or(why, string(outcome)), Version: h.cfg.Version,
	})
}
