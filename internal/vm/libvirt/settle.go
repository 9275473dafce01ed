package libvirt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/qmp"
)

// Settle implements qemu.Monitor. libvirt hands replies and events on by different
// threads, so a reply can overtake an event. Events keep their order: we have QEMU
// make one of its own, by a job that fails at once, and wait until we see it.
func (m *monitor) Settle(ctx context.Context) error {
	id := vm.Name(vm.KindMarker, "mark", vm.NewID())
	seen := make(chan struct{})
	m.mu.Lock()
	m.mu.marks[id] = seen
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.mu.marks, id)
	}()
	if err := m.tidy(ctx); err != nil {
		return fmt.Errorf("wait for events: %w", err)
	}
	if err := m.makeMark(ctx, id, seen); err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.mu.left = true
		return fmt.Errorf("wait for events: %w", err)
	}
	return nil
}

// makeMark makes a marker, waits until it is heard of, and takes it away.
func (m *monitor) makeMark(ctx context.Context, id string, seen <-chan struct{}) error {
	nowhere := map[string]any{"driver": "file", "filename": "", "size": 0}
	if err := m.Execute(ctx, "blockdev-create", map[string]any{"job-id": id, "options": nowhere}, nil); err != nil {
		return err
	}
	if err := m.hear(ctx, id, seen); err != nil {
		return err
	}
	return m.removeMark(ctx, id)
}

// removeMark takes a marker away; it is no error if somebody else was faster.
func (m *monitor) removeMark(ctx context.Context, id string) error {
	err := m.Execute(ctx, "job-dismiss", map[string]any{"id": id}, nil)
	if errors.As(err, new(*qmp.Error)) {
		return nil
	}
	return err
}

// tidy takes away what a Settle has left whose time was up.
func (m *monitor) tidy(ctx context.Context) error {
	m.mu.Lock()
	left := m.mu.left
	m.mu.left = false
	m.mu.Unlock()
	if !left {
		return nil
	}
	err := m.removeMarks(ctx)
	if err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.mu.left = true
	}
	return err
}

// mark takes an event over if it is about a marker.
func (m *monitor) mark(e qmp.Event) bool {
	var d struct{ ID, Status string }
	if e.Name != "JOB_STATUS_CHANGE" || json.Unmarshal(e.Data, &d) != nil {
		return false
	}
	if kind, _, _, ok := vm.ParseName(d.ID); !ok || kind != vm.KindMarker {
		return false
	}
	if d.Status == "concluded" { // it can be dismissed now
		m.mu.Lock()
		defer m.mu.Unlock()
		if seen := m.mu.marks[d.ID]; seen != nil {
			close(seen)
			delete(m.mu.marks, d.ID)
		}
	}
	return true
}

// removeMarks takes away what earlier ones, also of other connections, have left.
func (m *monitor) removeMarks(ctx context.Context) error {
	var jobs []struct{ ID, Status string }
	if err := m.Execute(ctx, "query-jobs", nil, &jobs); err != nil {
		return err
	}
	for _, j := range jobs {
		if kind, _, _, ok := vm.ParseName(j.ID); !ok || kind != vm.KindMarker {
			continue
		}
		if j.Status != "concluded" { // it will be
			m.mu.Lock()
			m.mu.left = true
			m.mu.Unlock()
			continue
		}
		if err := m.removeMark(ctx, j.ID); err != nil {
			return err
		}
	}
	return nil
}
