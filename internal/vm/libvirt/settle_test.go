package libvirt

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vm/vmtest"
	"github.com/rephub/rephub/qmp"
)

// What QEMU told before it answered is recorded after Settle, though libvirt lets
// answers overtake events.
func TestSettle(t *testing.T) {
	l := vmtest.StartLibvirtd(t)
	l.Define(t, "web", vmtest.Disk{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	heard := map[string]bool{}
	m, err := openMonitor(ctx, l.URI, "web", func(e qmp.Event) {
		var d struct{ ID, Status string }
		if json.Unmarshal(e.Data, &d) == nil && d.Status == "created" {
			mu.Lock()
			defer mu.Unlock()
			heard[d.ID] = true
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for i := range 100 {
		id := fmt.Sprintf("job%d", i)
		nowhere := map[string]any{"driver": "file", "filename": "", "size": 0}
		if err := m.Execute(ctx, "blockdev-create", map[string]any{"job-id": id, "options": nowhere}, nil); err != nil {
			t.Fatal(err)
		}
		if err := m.Settle(ctx); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		known := heard[id]
		mu.Unlock()
		if !known {
			t.Fatalf("the event of %s is not recorded", id)
		}
	}
	var jobs []struct{ ID string }
	if err := m.Execute(ctx, "query-jobs", nil, &jobs); err != nil || len(jobs) != 100 {
		t.Fatalf("markers were left: %d jobs, %v", len(jobs), err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.mu.marks) > 0 {
		t.Fatalf("%d markers are remembered", len(m.mu.marks))
	}
}

// Markers of a connection that was killed are taken away by the next.
func TestMarksLeftOver(t *testing.T) {
	l := vmtest.StartLibvirtd(t)
	d := l.Define(t, "web", vmtest.Disk{})
	d.Must("blockdev-create", map[string]any{"job-id": "rephub-m-mark-old", "options": map[string]any{"driver": "file", "filename": "", "size": 0}}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		var jobs []struct{ Status string }
		d.Must("query-jobs", nil, &jobs)
		if len(jobs) == 1 && jobs[0].Status == "concluded" {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("the job does not end")
		}
	}
	m, err := openMonitor(ctx, l.URI, "web", func(qmp.Event) {})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var jobs []struct{}
	if d.Must("query-jobs", nil, &jobs); len(jobs) > 0 {
		t.Fatal("a marker is still there")
	}
}
