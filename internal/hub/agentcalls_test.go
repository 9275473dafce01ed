package hub

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/relay"
	"github.com/rephub/rephub/internal/trust"
	"github.com/rephub/rephub/journal"
)

// obedient is an agent that has some groups, and notes what it is told.
type obedient struct {
	mu     sync.Mutex
	has    []host.Held
	told   []string
	broken string // the name of a group that it cannot note
	forgot []journal.GroupID
}

func (o *obedient) obey(ctx context.Context, _, method string, params json.RawMessage) (any, error) {
	if method == "hang" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch method {
	case host.CallGroups:
		return host.Has{Groups: o.has}, nil
	case host.CallForget:
		var f host.Groups
		err := json.Unmarshal(params, &f)
		o.forgot = append(o.forgot, f.IDs...)
		return nil, err
	case host.CallVMs:
		return nil, errors.New("it is busy")
	case host.CallApply:
		var g host.Group
		if err := json.Unmarshal(params, &g); err != nil {
			return nil, err
		}
		if g.Name == o.broken {
			return nil, errors.New("no space left on the disk of the spool")
		}
		o.told = append(o.told, g.Name)
	}
	return nil, nil
}

// obeys connects an agent that answers by itself.
func (r *agentsRig) obeys(id *trust.Identity, o *obedient) *relay.Conn {
	r.t.Helper()
	c, err := r.shake(id)
	if err != nil {
		r.t.Fatal(err)
	}
	conn, err := relay.New(c, relay.Config{Handler: o.obey})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { _ = conn.Run(ctx) }()
	r.t.Cleanup(func() { cancel(); <-conn.Done() })
	if err := conn.Call(r.t.Context(), host.CallHello, host.Hello{}, nil); err != nil {
		r.t.Fatal(err)
	}
	return conn
}

func (r *agentsRig) group(name string, agent string) journal.GroupID {
	r.t.Helper()
	record := groupRecord{Group: catalog.Group{ID: newGroupID(), Name: name, Agent: agent, Hub: "hub-1", Intent: catalog.IntentProtect}}
	if err := r.add(newEntry(r.dir, record, slog.New(slog.DiscardHandler))); err != nil {
		r.t.Fatal(err)
	}
	return record.ID
}

// An agent forgets what was removed or went to another host, and what it has of another hub. What a hub has never
// heard of it may itself have forgotten: an older copy, an empty one, a folder that
// cannot be read. One group that an agent cannot note keeps no other from it, and
// does not end the connection that empties the spools.
func TestAgentIsToldWhatItHasNoMore(t *testing.T) {
	r := newAgentsRig(t, nil)
	id := r.agent("kvm1")
	agent := id.Agent().ID.String()
	removed, unknown, foreign := newGroupID(), newGroupID(), newGroupID()
	if _, err := r.store.GrantEpoch(t.Context(), removed, 0); err != nil {
		t.Fatal(err)
	}
	mine, elsewhere := r.group("b", agent), r.group("c", newGroupID().String())
	r.group("a", agent)
	const hub = "hub-1"
	o := &obedient{has: []host.Held{{ID: mine, Hub: hub}, {ID: unknown, Hub: hub}, {ID: removed, Hub: hub}, {ID: elsewhere}, {ID: foreign, Hub: "hub-0"}}, broken: "a"}
	conn := r.obeys(id, o)
	l, ok := r.agents.get(agent)
	if !ok {
		t.Fatal("the agent is not connected")
	}
	if found, silent := r.agentVMs(t.Context()); len(found) != 0 || !silent[agent] {
		t.Errorf("an agent that does not say which VMs it has: %v, %v", found, silent)
	}
	if err := r.tellAgent(t.Context(), l); err == nil {
		t.Error("nobody says that a group could not be noted")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !slices.Equal(o.told, []string{"b"}) {
		t.Errorf("the agent was told of %q", o.told)
	}
	if !slices.Equal(o.forgot, []journal.GroupID{removed, elsewhere, foreign}) {
		t.Errorf("forgotten are %v; %v was removed, %v is on another host, %v is unknown", o.forgot, removed, elsewhere, unknown)
	}
	if conn.Err() != nil {
		t.Errorf("the connection has ended: %v", conn.Err())
	}
}

// A group whose record is lost, so that only the catalog's word is left, still
// names its VMs to the agent: by what the agent itself finds them.
func TestVMsOfAnAgentWithoutARecord(t *testing.T) {
	var h Hub
	vms := h.vmsOf(t.Context(), catalog.Group{Agent: "x", Volumes: []catalog.Volume{{VM: "vm", Name: "vm/a"}, {VM: "vm", Name: "vm/b"}}})
	if len(vms) != 1 || vms[0].Name != "vm" || vms[0].Agent != "x" {
		t.Errorf("its VMs are %+v", vms)
	}
}

// lost is a connection that is lost in the middle of every call.
type lost struct{}

func (lost) call(context.Context, string, string, any, any) error {
	return errors.New("the connection has ended")
}
func (lost) get(string) (*agentLink, bool) { return nil, false }

// A stop of which nobody knows whether the agent heard it is an error, and still what
// the group is meant to do: it can be stopped, or protected, again.
func TestStopThatWasNotAnswered(t *testing.T) {
	g := &agentGroup{agents: lost{}}
	for range 2 {
		if err := g.Again(); err != nil {
			t.Fatal(err)
		}
		if err := g.Stop(t.Context()); err == nil {
			t.Fatal("nobody says that the agent did not answer")
		}
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		if err := g.Run(ctx); err != nil || ctx.Err() != nil {
			t.Errorf("it runs still: %v", err)
		}
		cancel()
	}
}

// Whoever waits for an agent that restarts hears that it will do what was asked.
func TestConnectionLostInACall(t *testing.T) {
	r := newAgentsRig(t, nil)
	id := r.agent("kvm1")
	conn := r.obeys(id, &obedient{})
	said := make(chan error, 1)
	go func() { said <- r.agents.call(t.Context(), id.Agent().ID.String(), "hang", nil, nil) }()
	if err := conn.Call(t.Context(), host.CallHello, host.Hello{}, nil); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if err := api.AsError(<-said); err.Code != api.CodeUnavailable || err.Hint == "" {
		t.Errorf("lost: %+v", err)
	}
}
