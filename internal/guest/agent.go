package guest

import (
	"context"
	"errors"
	"fmt"

	"github.com/rephub/rephub/internal/vm"
)

// Target is a guest to be frozen.
type Target struct {
	VM      string `json:"vm"`      // its name, for people
	Address string `json:"address"` // of its agent, see vm.Guest
}

const (
	askStatus = `{"execute":"guest-fsfreeze-status"}`
	askFreeze = `{"execute":"guest-fsfreeze-freeze"}`
	askThaw   = `{"execute":"guest-fsfreeze-thaw"}`
)

// agent is the conversation with one guest's.
type agent struct {
	Target
	ch channel
}

// greet connects to an agent that answers.
func greet(ctx context.Context, t Target) (*agent, error) {
	ch, err := open(ctx, t.Address)
	if err != nil {
		return nil, err
	}
	if err := ch.sync(ctx); err != nil {
		_ = ch.Close()
		return nil, err
	}
	return &agent{t, ch}, nil
}

func (a *agent) ask(ctx context.Context, line string, result any) error {
	p, err := a.ch.execute(ctx, line)
	if err != nil {
		return err
	}
	return decode(p, result)
}

// is tells whether the guest's file systems are in a state: frozen or thawed.
func (a *agent) is(ctx context.Context, want string) error {
	var got string
	if err := a.ask(ctx, askStatus, &got); err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("the guest's file systems are %.20s, not %s", got, want)
	}
	return nil
}

// errNothing: there is no file system that could be frozen.
var errNothing = errors.New("the guest has no file system that can be frozen")

// freeze returns when everything is written and writes wait. After an error it may
// be frozen all the same, now or when its agent goes on.
func (a *agent) freeze(ctx context.Context) error {
	var n int
	if err := a.ask(ctx, askFreeze, &n); err != nil {
		return fmt.Errorf("freeze: %w", err)
	}
	if n == 0 {
		return errNothing
	}
	return a.is(ctx, "frozen")
}

// thaw returns when the guest is surely not frozen.
func (a *agent) thaw(ctx context.Context) error {
	var n int
	if err := a.ask(ctx, askThaw, &n); err != nil {
		return fmt.Errorf("thaw: %w", err)
	}
	return a.is(ctx, "thawed")
}

// thaw is for a guest that nobody talks to. One whose VM has ended is thawed.
func thaw(ctx context.Context, t Target) error {
	ch, err := open(ctx, t.Address)
	if err == nil {
		defer ch.Close()
		if err = ch.sync(ctx); err == nil {
			a := &agent{t, ch}
			err = a.thaw(ctx)
		} else {
			ch.blind(askThaw) // for when the agent goes on
		}
	}
	if errors.Is(err, vm.ErrGone) {
		return nil
	}
	return err
}
