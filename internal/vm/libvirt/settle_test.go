package libvirt_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vm/libvirt"
	"github.com/rephub/rephub/internal/vm/vmtest"
	"github.com/rephub/rephub/qmp"
)

// What QEMU told before it answered is recorded after Settle, though libvirt lets
// answers overtake events.
func settle(t *testing.T, l *vmtest.Libvirtd) {
	d := l.Define(t, "settle", vmtest.Disk{})
	ctx := deadline(t)
	var mu sync.Mutex
	heard := map[string]bool{}
	m, err := libvirt.OpenMonitor(ctx, l.URI, "settle", func(e qmp.Event) {
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
	// Markers whose time was up before QEMU answered are taken away later.
	d.Freeze()
	for range 3 {
		short, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
		if err := m.Settle(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		cancel()
	}
	d.Thaw()
	var jobs []struct{ ID string }
	for range 2 { // at the first, they may not have ended
		if err := m.Settle(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Execute(ctx, "query-jobs", nil, &jobs); err != nil || len(jobs) != 100 {
		t.Fatalf("markers were left: %d jobs, %v", len(jobs), err)
	}
	if n := libvirt.Marks(m); n > 0 {
		t.Fatalf("%d markers are remembered", n)
	}
}

// Markers of a connection that was killed are taken away by the next.
func marksLeftOver(t *testing.T, l *vmtest.Libvirtd) {
	d := l.Define(t, "marks", vmtest.Disk{})
	d.Must("blockdev-create", map[string]any{"job-id": "rephub-m-mark-old", "options": map[string]any{"driver": "file", "filename": "", "size": 0}}, nil)
	ctx := deadline(t)
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
	m, err := libvirt.OpenMonitor(ctx, l.URI, "marks", func(qmp.Event) {})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var jobs []struct{}
	if d.Must("query-jobs", nil, &jobs); len(jobs) > 0 {
		t.Fatal("a marker is still there")
	}
}
