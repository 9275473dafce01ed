package circle

import (
	"fmt"
	"testing"
	"time"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/api"
)

// The hub loses sight of a VM that lives on, and its copy runs elsewhere: neither side's writes are lost. What the hub has failed over to is taken back, and all that the VM wrote meanwhile arrives.
func TestSplitBrain(t *testing.T) {
	s := newSites(t)
	first := s.away.Group("web").FirstSeq
	s.net.Proxy.Set(rig.Weather{How: rig.Cut})
	lost := s.web.wrote()
	s.web.writes(s.away, lost+30)
	s.away.Must("failover", "start", "web")
	f := failoverOf(t, s.away, "failover")
	if len(f.Notes) == 0 {
		t.Error("nobody is told that the VM could not be reached")
	}
	copied := guestOf(t, f)
	copied.counters(s.away)
	copied.writes(s.away, 20)

	// It is seen again, and nothing of it is mixed into the history.
	s.net.Proxy.Set(rig.Weather{})
	s.away.Eventually("the agent is back", time.Minute, func() error {
		var l api.Agents
		s.away.JSON(&l, "agent", "list")
		if len(l.Agents) != 1 || l.Agents[0].State != "online" {
			return fmt.Errorf("%+v", l)
		}
		return nil
	})
	before := s.away.Group("web")
	seen := s.web.wrote()
	s.web.writes(s.away, seen+30)
	copied.writes(s.away, 20)
	if now := s.away.Group("web"); now.State != api.StateFailedOver || now.DurableSeq != before.DurableSeq {
		t.Errorf("while it has failed over it is %s, and its newest point went from %d to %d", now.State, before.DurableSeq, now.DurableSeq)
	}

	s.away.Must("failover", "rollback", "web")
	s.away.WaitState("web", api.StateProtected)
	s.away.WaitDurable("web")
	g := s.away.Group("web")
	if g.FirstSeq != first || g.DurableSeq <= before.DurableSeq || len(g.Ranges) != 1 {
		t.Errorf("the history is not one piece from %d on: %+v", first, g)
	}
	want := s.web.wrote()
	s.web.writes(s.away, want+20)
	s.away.WaitDurable("web")
	s.away.Must("failover", "test", "web")
	if a, _ := guestOf(t, failoverOf(t, s.away, "test")).counters(s.away); a < want {
		t.Errorf("the newest point has %d, and %d were written before", a, want)
	}
	s.away.Must("failover", "stop", "web")
}
