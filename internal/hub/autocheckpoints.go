package hub

import (
	"context"
	"fmt"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/replica"
)

// defaultCheckpointEvery is how far automatic checkpoints are apart.
const defaultCheckpointEvery = 5 * time.Second

// maxAutoCheckpoints bounds one list.
const maxAutoCheckpoints = 10_000

// checkpointEvery is how far a group's automatic checkpoints are apart; 0: there are none.
func checkpointEvery(r *groupRecord) time.Duration {
	switch {
	case r.CheckpointEvery == 0:
		return defaultCheckpointEvery
	case r.CheckpointEvery < 0:
		return 0
	}
	return r.CheckpointEvery
}

// everyOf is what a record has for what was asked, in seconds; 0 is off, nil the default.
func everyOf(seconds *float64) (time.Duration, error) {
	if seconds == nil {
		return 0, nil
	}
	if *seconds == 0 {
		return -1, nil
	}
	d := time.Duration(*seconds * float64(time.Second))
	if d < time.Second || d%time.Second != 0 || *seconds > 24*3600 {
		return 0, api.Errorf(api.CodeInvalid, "an automatic checkpoint every %gs", *seconds).
			WithHint("use whole seconds, at most a day, or 0 for none; every write is a point in any case")
	}
	return d, nil
}

// SetAutoCheckpoints implements api.Service.
func (h *Hub) SetAutoCheckpoints(ctx context.Context, group string, set api.AutoCheckpoints) (api.AutoCheckpoints, error) {
	every, err := everyOf(&set.EverySeconds)
	if err != nil {
		return api.AutoCheckpoints{}, err
	}
	e, err := h.find(group)
	if err != nil {
		return api.AutoCheckpoints{}, err
	}
	release, err := e.hold(ctx)
	if err != nil {
		return api.AutoCheckpoints{}, err
	}
	defer release()
	return set, h.setCheckpointEvery(ctx, e, every)
}

// setCheckpointEvery makes a setting durable. The caller holds the entry.
func (h *Hub) setCheckpointEvery(ctx context.Context, e *entry, every time.Duration) error {
	r := e.record()
	r.CheckpointEvery = every
	return h.become(ctx, e, r)
}

// ListCheckpoints implements api.Service. Those that people have named are few; of
// the automatic ones the newest are read from the journal.
func (h *Hub) ListCheckpoints(ctx context.Context, group string, q api.CheckpointQuery) (api.Checkpoints, error) {
	l := api.Checkpoints{Checkpoints: []api.Checkpoint{}}
	if q.Auto < 0 || q.Auto > maxAutoCheckpoints {
		return l, api.Errorf(api.CodeInvalid, "%d automatic checkpoints", q.Auto).WithHint("ask for at most %d, and for older ones with a time", maxAutoCheckpoints)
	}
	e, err := h.find(group)
	if err != nil {
		return l, err
	}
	g, err := e.usable()
	if err != nil {
		return l, err
	}
	leave, err := e.enter() // its files are read
	if err != nil {
		return l, err
	}
	defer leave()
	named, err := g.Checkpoints(ctx)
	if err != nil {
		return l, err
	}
	r := e.record()
	var auto []api.Checkpoint
	if every := checkpointEvery(&r); every > 0 && q.Auto > 0 {
		if auto, l.More, err = g.AutoCheckpoints(replica.AutoQuery{Every: every, Before: q.Before, Limit: q.Auto}); err != nil {
			return l, fmt.Errorf("group %s: %w", group, err)
		}
	}
	for _, c := range named {
		if !q.Before.IsZero() && c.Time.After(q.Before) {
			continue
		}
		for len(auto) > 0 && auto[0].Seq <= c.Seq {
			l.Checkpoints, auto = append(l.Checkpoints, auto[0]), auto[1:]
		}
		l.Checkpoints = append(l.Checkpoints, c)
	}
	l.Checkpoints = append(l.Checkpoints, auto...)
	return l, nil
}
