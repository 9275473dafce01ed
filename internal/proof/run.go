package proof

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// tryEvery is the pause between two tries of a check.
	tryEvery = 500 * time.Millisecond
	// askPatience bounds one question to a monitor or to a guest agent, and the last look at a VM.
	askPatience = 10 * time.Second
	// kept is how much is kept of what commands and serial lines say, bytes.
	kept = 4 << 10
)

// errEnded: the VM has no process any more.
var errEnded = errors.New("the VM has ended")

// Run makes the checks of a VM, all at once, until each has passed or the time is over; then it takes a picture. ctx ends it early. What goes wrong is in the results.
func Run(ctx context.Context, t Target, c Checks) Seen {
	limit := c.Timeout
	if limit <= 0 {
		limit = DefaultTimeout
	}
	m := newMonitor(filepath.Join(t.Dir, "qmp"))
	bounded, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %v", limit))
	defer cancel()
	alive, dead := context.WithCancelCause(bounded)
	defer dead(nil)

	var watching errgroup.Group
	stop := make(chan struct{})
	watching.Go(func() error { t.watch(stop, dead); return nil })
	results := t.checkAll(alive, m, c)
	close(stop)
	_ = watching.Wait() // it has no errors

	last, cancelLast := context.WithTimeout(ctx, askPatience)
	defer cancelLast()
	s := Seen{Looked: time.Now().UTC()}
	s.Results = append([]Result{t.running(last, m, &s)}, results...)
	if p, err := m.screen(last); err != nil {
		s.NoScreen = noScreen(err)
	} else if s.Screen, s.Width, s.Height, err = p.png(); err != nil {
		s.NoScreen = err.Error()
	}
	return s
}

// watch ends all checks when the VM has ended.
func (t *Target) watch(stop <-chan struct{}, dead context.CancelCauseFunc) {
	tick := time.NewTicker(tryEvery)
	defer tick.Stop()
	for {
		if ok, err := t.Alive(); err == nil && !ok {
			dead(fmt.Errorf("%w: %s", errEnded, t.said()))
			return
		}
		select {
		case <-tick.C:
		case <-stop:
			return
		}
	}
}

// said is the end of what QEMU has said.
func (t *Target) said() string {
	text, err := os.ReadFile(filepath.Join(t.Dir, "log"))
	if err != nil {
		return err.Error()
	}
	if s := clean(tail(text)); s != "" {
		return s
	}
	return "QEMU said nothing"
}

// check is one that runs.
type check struct {
	Result
	// try tells what it has seen when it has passed, or why it has not yet. An error that wraps errHopeless is not tried again.
	try func(ctx context.Context) (seen string, err error)
	// after fills in what is known at the end, whether it has passed or not.
	after func(*Result, error)
}

var errHopeless = errors.New("it cannot be checked")

func (t *Target) checkAll(ctx context.Context, m *monitor, c Checks) []Result {
	var checks []*check
	var lines *serialLines
	if c.Serial != "" || c.Command != "" {
		lines = &serialLines{dir: t.Dir, want: c.Serial}
	}
	if c.Agent {
		checks = append(checks, &check{Result: Result{Kind: KindAgent}, try: func(ctx context.Context) (string, error) { return pingAgent(ctx, m, t.Dir) }})
	}
	if c.Serial != "" {
		checks = append(checks, &check{Result: Result{Kind: KindSerial, Asked: c.Serial}, try: lines.said(m), after: func(r *Result, _ error) { r.Output = lines.tail() }})
	}
	if c.Screen {
		s := &screenCheck{now: time.Now}
		checks = append(checks, &check{Result: Result{Kind: KindScreen}, try: s.look(m), after: s.end})
	}
	if c.Command != "" {
		checks = append(checks, t.command(c.Command, m, lines))
	}
	var running errgroup.Group
	for _, one := range checks {
		running.Go(func() error { one.run(ctx); return nil })
	}
	_ = running.Wait() // what went wrong is in the results
	var out []Result
	for _, one := range checks {
		out = append(out, one.Result)
	}
	return out
}

// run tries until the check has passed or ctx ends.
func (c *check) run(ctx context.Context) {
	began := time.Now()
	var why error
	for {
		c.Tries++
		seen, err := c.try(ctx)
		if err == nil {
			c.OK, c.Detail = true, seen
			why = nil
			break
		}
		if ctx.Err() == nil || why == nil {
			why = err // what the end of the time did to the last try tells nothing
		}
		if errors.Is(err, errHopeless) {
			break
		}
		select {
		case <-time.After(tryEvery):
			continue
		case <-ctx.Done():
		}
		why = fmt.Errorf("%w: %w", context.Cause(ctx), why)
		break
	}
	c.Took = time.Since(began)
	if why != nil {
		c.Detail = clean([]byte(why.Error()))
	}
	if c.after != nil {
		c.after(&c.Result, why)
	}
}

// running is what QEMU says of the VM in the end; also which QEMU it is.
func (t *Target) running(ctx context.Context, m *monitor, s *Seen) Result {
	r := Result{Kind: KindRunning}
	if ok, err := t.Alive(); err == nil && !ok {
		r.Detail = fmt.Sprintf("%v: %s", errEnded, t.said())
		return r
	}
	status, version, err := m.status(ctx)
	s.QEMU = version
	switch {
	case err != nil:
		r.Detail = fmt.Sprintf("QEMU does not answer: %v", err)
	case status != "running":
		r.Detail = "QEMU says " + status
	default:
		r.OK, r.Detail = true, "QEMU says running"
	}
	return r
}

func tail(p []byte) []byte { return p[max(0, len(p)-kept):] }

// clean makes text that others have written fit for people's eyes: no control characters, no halves of letters.
func clean(p []byte) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0):
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(p), "\uFFFD")))
}
