package hub

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rephub/rephub/internal/proof"
)

var (
	descDrillSuccess = groupDesc("drill_last_success_timestamp_seconds", "When the last drill ended that was passed; 0: none was")
	descDrillEnd     = groupDesc("drill_last_end_timestamp_seconds", "When the last drill ended, or was found to have been missed")
	descDrillPassed  = groupDesc("drill_last_passed", "1 if the last drill was passed")
	descDrillRTO     = groupDesc("drill_last_rto_seconds", "How long it took in the last drill until all VMs ran; 0: they did not")
)

// collectDrill tells of groups that have drills.
func collectDrill(gauge func(d *prometheus.Desc, v float64, labels ...string), e *entry) {
	if e.drill == nil {
		return
	}
	s, ok := e.drill.Get()
	if !ok {
		return
	}
	name := e.record().Name
	success := 0.0 // one who waits for it to be recent notices that there was none
	if !s.Success.IsZero() {
		success = float64(s.Success.Unix())
	}
	gauge(descDrillSuccess, success, name)
	if s.Last == nil {
		return
	}
	passed := 0.0
	if s.Last.Outcome == proof.Passed {
		passed = 1
	}
	gauge(descDrillEnd, float64(s.Last.Ended.Unix()), name)
	gauge(descDrillPassed, passed, name)
	gauge(descDrillRTO, s.Last.RTO.Seconds(), name)
}
