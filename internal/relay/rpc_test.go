package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Calls go both ways, out of order, many at a time.
func TestCalls(t *testing.T) { overAll(t, calls) }

func calls(t *testing.T, n network) {
	gate := make(chan struct{})
	var cancelled atomic.Bool
	far := create(t, memFS(t), 1, options(false))
	h := n.hub(t, ReceiverConfig{Open: into(far)}, Config{Handler: func(ctx context.Context, peer, method string, params json.RawMessage) (any, error) {
		switch method {
		case "slow":
			<-gate
			return peer, nil
		case "echo":
			return params, nil
		case "no":
			return nil, &RemoteError{Code: "not-found", Message: "no such group"}
		case "huge":
			return strings.Repeat("x", maxControl), nil
		case "hang":
			<-ctx.Done()
			cancelled.Store(true)
		}
		return nil, errors.New("it went wrong")
	}})
	c := n.dial(t, h.addr(), Config{})
	ctx := t.Context()
	slow := make(chan error, 1)
	var name string
	go func() { slow <- c.Call(ctx, "slow", nil, &name) }()
	var wg sync.WaitGroup
	for i := range 4 * maxCalls {
		wg.Go(func() {
			var got string
			if err := c.Call(ctx, "echo", fmt.Sprint(i), &got); err != nil || got != fmt.Sprint(i) {
				t.Errorf("echo %d: %q, %v", i, got, err)
			}
		})
	}
	wg.Wait()
	var remote *RemoteError
	if err := c.Call(ctx, "no", nil, nil); !errors.As(err, &remote) || remote.Code != "not-found" {
		t.Errorf("an error with a code: %v", err)
	}
	if err := c.Call(ctx, "huge", nil, nil); !errors.As(err, &remote) || !strings.Contains(remote.Message, "too large") {
		t.Errorf("a huge result: %v", err)
	}
	if err := c.Call(ctx, "echo", strings.Repeat("x", maxControl), nil); err == nil {
		t.Error("huge parameters were sent")
	}
	short, cancel := context.WithCancel(ctx)
	hang := make(chan error, 1)
	go func() { hang <- c.Call(short, "hang", nil, nil) }()
	cancel()
	if err := <-hang; !errors.Is(err, context.Canceled) {
		t.Errorf("a call that is not waited for: %v", err)
	}
	close(gate)
	if err := <-slow; err != nil || name != "agent" {
		t.Errorf("the slow call: %q, %v", name, err)
	}
	// A slot that a cancelled call took comes back.
	for range 2 * maxCalls {
		short, cancel := context.WithCancel(ctx)
		go cancel()
		_ = c.Call(short, "hang", nil, nil)
	}
	must(t, c.Call(ctx, "echo", "still there", nil))
	go func() { slow <- c.Call(ctx, "hang", nil, nil) }()
	await(t, "a handler is cancelled", cancelled.Load)
	must(t, c.Close())
	if err := <-slow; !errors.Is(err, ErrClosed) {
		t.Errorf("a call on a closed connection: %v", err)
	}
	if err := c.Call(ctx, "echo", 1, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("a call after that: %v", err)
	}
}
