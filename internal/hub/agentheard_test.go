package hub

import (
	"context"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/protect"
)

// line is a connection to the one agent there is; nil while it is away.
type line struct{ *agentLink }

func (l line) call(context.Context, string, string, any, any) error { return nil }
func (l line) get(string) (*agentLink, bool)                        { return l.agentLink, l.agentLink != nil }

// An agent that was away and is back may have met anything meanwhile: until it has
// spoken again, what it said before does not count.
func TestWordOfAnEarlierConnection(t *testing.T) {
	g := &agentGroup{agents: line{&agentLink{Since: time.Now()}}}
	if _, _, fresh := g.heard(); fresh {
		t.Error("it has said nothing yet")
	}
	say := func() { g.hear(host.Status{State: protect.StateProtected}, time.Now().UnixNano(), 0) }
	say()
	if s, _, fresh := g.heard(); !fresh || s.State != protect.StateProtected {
		t.Errorf("heard %s, %v", s.State, fresh)
	}
	g.agents = line{nil}
	if _, _, fresh := g.heard(); fresh {
		t.Error("it is away")
	}
	g.agents = line{&agentLink{Since: time.Now()}}
	if _, _, fresh := g.heard(); fresh {
		t.Error("it is back, and has said nothing yet")
	}
	say()
	if _, _, fresh := g.heard(); !fresh {
		t.Error("it has spoken again")
	}
}
