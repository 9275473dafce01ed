package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	gosync "sync"
	"time"
)

const (
	// HoldLimit is the longest that guests stay frozen, from the first freeze's
	// beginning on; the seq is read within milliseconds.
	HoldLimit = 5 * time.Second
	// thawPatience bounds one try to thaw a guest whose agent answered just now.
	thawPatience = 3 * time.Second
	// orphanPatience is how long a holder goes on trying when nobody else is there to.
	orphanPatience = 10 * time.Minute
	retryThaw      = time.Second
)

// order is what a holder is told, as one line of JSON.
type order struct {
	Targets  []Target      `json:"targets"`
	Patience time.Duration `json:"patience_ns"` // until all agents have answered and all guests are frozen
	Limit    time.Duration `json:"limit_ns"`    // of the freeze
}

// report is what a holder says, one line of JSON each: first whether the guests are
// frozen, then how it ended.
type report struct {
	Frozen bool `json:"frozen,omitempty"`
	// Ended is the last word. Unless Failed is empty, the guests were not all frozen
	// all the time. Owed may still be frozen.
	Ended  bool     `json:"ended,omitempty"`
	Failed string   `json:"failed,omitempty"`
	Owed   []Target `json:"owed,omitempty"`
}

// Hold is the holder: it reads an order and freezes. At a byte, at the end of in,
// when the freeze's limit has passed or ctx ends it thaws. It returns when all is thawed, or
// when whoever gave the order is there to go on with that.
func Hold(ctx context.Context, in io.Reader, out io.Writer) error {
	r := bufio.NewReader(in)
	line, err := r.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read what to freeze: %w", err)
	}
	var o order
	if err := json.Unmarshal(line, &o); err != nil {
		return fmt.Errorf("read what to freeze: %w", err)
	}
	released, orphaned := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(orphaned)
		if _, err := r.ReadByte(); err == nil {
			close(released)
			_, _ = r.ReadByte()
		}
	}()
	tell := json.NewEncoder(out) // nobody may be there to hear it
	h := &holder{limit: o.Limit}
	err = h.freeze(wanted(ctx, released, orphaned), o)
	if err == nil {
		_ = tell.Encode(report{Frozen: true})
		select {
		case <-released:
		case <-orphaned:
			err = errors.New("whoever asked for the freeze is gone")
		case <-h.over.Done():
			err = errors.New("nobody ended the freeze in time")
		case <-ctx.Done():
			err = errors.New("the process that freezes was told to end")
		}
	}
	owed, lost := h.thaw()
	if err == nil {
		err = lost
	}
	last := report{Ended: true, Owed: owed}
	if err != nil {
		last.Failed = err.Error()
	}
	_ = tell.Encode(last)
	if len(owed) > 0 {
		select {
		case <-orphaned:
			goOn(ctx, owed)
		case <-time.After(thawPatience): // it was heard
		}
	}
	return nil
}

// wanted ends with ctx, or when nobody wants the freeze any more.
func wanted(ctx context.Context, released, orphaned <-chan struct{}) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-released:
		case <-orphaned:
		case <-ctx.Done():
		}
		cancel(errors.New("nobody waits for the freeze any more"))
	}()
	return ctx
}

// holder has guests frozen.
type holder struct {
	limit  time.Duration
	agents []*agent
	frozen []*agent        // those that were asked to freeze
	over   context.Context // ends at the limit
	cancel context.CancelFunc
}

// freeze freezes all guests. After an error some may be frozen.
func (h *holder) freeze(ctx context.Context, o order) error {
	ctx, cancel := context.WithTimeout(ctx, o.Patience)
	defer cancel()
	h.over, h.cancel = context.WithCancel(context.Background())
	var mu gosync.Mutex
	err := each(o.Targets, func(t Target) error {
		a, err := greet(ctx, t)
		if err != nil {
			return err
		}
		mu.Lock()
		h.agents = append(h.agents, a)
		mu.Unlock()
		return a.is(ctx, "thawed") // one that somebody else froze is not ours to thaw
	})
	if err != nil {
		return err
	}
	h.cancel()
	h.over, h.cancel = context.WithTimeout(context.Background(), h.limit)
	h.frozen = h.agents
	bounded, stop := context.WithTimeout(ctx, h.limit)
	defer stop()
	return each(h.agents, func(a *agent) error { return a.freeze(bounded) })
}

// thaw thaws what freeze has begun to freeze. lost says that a guest was not frozen
// until now; owed could not be thawed.
func (h *holder) thaw() (owed []Target, lost error) {
	defer h.cancel()
	var mu gosync.Mutex
	lost = each(h.frozen, func(a *agent) error {
		ctx, cancel := context.WithTimeout(context.Background(), thawPatience)
		defer cancel()
		err := a.ch.sync(ctx)
		var gone error
		if err == nil {
			gone = a.is(ctx, "frozen")
			err = a.thaw(ctx)
		}
		if err != nil {
			a.ch.blind(askThaw)
			mu.Lock()
			owed = append(owed, a.Target)
			mu.Unlock()
		}
		return inOneLine([]error{gone, err})
	})
	for _, a := range h.agents {
		_ = a.ch.Close()
	}
	return owed, lost
}

// goOn thaws what is owed, for somebody who is gone.
func goOn(ctx context.Context, owed []Target) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), orphanPatience)
	defer cancel()
	_ = each(owed, func(t Target) error {
		for ctx.Err() == nil {
			try, stop := context.WithTimeout(ctx, thawPatience)
			err := thaw(try, t)
			stop()
			if err == nil {
				return nil
			}
			select {
			case <-time.After(retryThaw):
			case <-ctx.Done():
			}
		}
		return ctx.Err()
	})
}

// each does something with all guests at once, and says with whom it failed.
func each[T fmt.Stringer](list []T, do func(T) error) error {
	errs := make([]error, len(list))
	var wg gosync.WaitGroup
	for i, t := range list {
		wg.Go(func() {
			if err := do(t); err != nil {
				errs[i] = fmt.Errorf("VM %s: %w", t, err)
			}
		})
	}
	wg.Wait()
	return inOneLine(errs)
}

// inOneLine joins errors to a text that fits into a table.
func inOneLine(errs []error) error {
	var all error
	for _, err := range errs {
		switch {
		case err == nil:
		case all == nil:
			all = err
		default:
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return all
}

// String is the VM's name.
func (t Target) String() string { return t.VM }
