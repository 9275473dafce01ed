package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/relay"
)

// obey answers the hub's calls.
func (a *Agent) obey(ctx context.Context, _, method string, params json.RawMessage) (any, error) {
	out, err := a.do(ctx, method, params)
	return out, host.Wrap(err)
}

func (a *Agent) do(ctx context.Context, method string, params json.RawMessage) (any, error) {
	switch method {
	case host.CallVMs:
		return host.VMs{VMs: a.vms.list()}, nil
	case host.CallInspect:
		return answer(params, func(n host.Name) (any, error) { return a.vms.inspect(ctx, n.Name) })
	case host.CallDefinition:
		return answer(params, func(v host.VM) (any, error) { return a.vms.definition(ctx, v) })
	case host.CallPower:
		return answer(params, func(p host.Power) (any, error) { return a.vms.power(ctx, p) })
	case host.CallApply:
		return answer(params, func(g host.Group) (any, error) { return nil, a.groups.apply(g) })
	case host.CallGroups:
		return a.groups.held(), nil
	case host.CallForget:
		return answer(params, func(f host.Groups) (any, error) { return nil, a.groups.forget(f.IDs) })
	case host.CallAwait:
		return answer(params, func(w host.Await) (any, error) { return nil, a.groups.await(ctx, w) })
	case host.CallQuiesce:
		return answer(params, func(q host.Quiesce) (any, error) { return a.groups.quiesce(ctx, q) })
	case host.CallFresh:
		return answer(params, func(id host.ID) (any, error) { return a.groups.fresh(id.ID) })
	}
	return nil, &relay.RemoteError{Code: "unknown", Message: "this agent does not know the call " + method}
}

func answer[T any](params json.RawMessage, do func(T) (any, error)) (any, error) {
	var v T
	if err := json.Unmarshal(params, &v); err != nil {
		return nil, &relay.RemoteError{Code: "invalid", Message: err.Error()}
	}
	return do(v)
}

// apply changes what the group is meant to do.
func (g *group) apply(spec host.Group) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.spec = spec
	life := g.mu.life
	g.changedLocked()
	if life == nil {
		return
	}
	life.SetGoal(spec.Goal)
}

// wait returns when the group is in the state, or says why it is not there yet.
func (g *group) wait(ctx context.Context, state protect.State) error {
	for {
		g.mu.Lock()
		life, changed, err := g.mu.life, g.mu.changed, g.mu.err
		g.mu.Unlock()
		if life == nil {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return notYet(fmt.Sprint(err), "")
			}
		}
		run, cancel := context.WithCancel(ctx)
		go func() {
			select {
			case <-changed:
				cancel() // another life
			case <-run.Done():
			}
		}()
		if state == protect.StateSyncing {
			err = life.Started(run)
		} else {
			err = life.Wait(run, state)
		}
		moved := run.Err() != nil && ctx.Err() == nil
		cancel()
		var not *protect.NotYetError
		switch {
		case moved:
			continue
		case errors.As(err, &not):
			return notYet(not.Reason, not.Hint())
		}
		return err
	}
}

func notYet(reason, hint string) error {
	return api.Errorf(api.CodeUnavailable, "%s", reason).WithHint("%s", hint)
}
