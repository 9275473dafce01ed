package hub

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/journal"
)

func TestMakeFolderKeepsWhatIsThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "shop")
	for range 2 { // an empty one is what a killed hub left
		if err := makeFolder(dir); err != nil {
			t.Fatal(err)
		}
	}
	history := filepath.Join(dir, "journal")
	if err := os.Mkdir(history, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := makeFolder(dir); codeOf(err) != api.CodeConflict {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(history); err != nil {
		t.Error(err)
	}
}

// A folder is opened only as the group that it holds.
func TestFolderOfAnotherGroup(t *testing.T) {
	volumes := []catalog.Volume{{ID: 1, Name: "web/disk0", VM: "web", Disk: "disk0", Size: 1 << 20}}
	deps := GroupDeps{
		Dir: filepath.Join(t.TempDir(), "shop"), Create: true, RunDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler),
		Record: groupRecord{Group: catalog.Group{ID: journal.GroupID{1}, Name: "shop", Volumes: volumes}, VMs: []catalog.VM{{Name: "web"}}},
	}
	g, err := openGroup(t.Context(), deps)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	deps.Create, deps.Record.ID = false, journal.GroupID{2}
	if _, err := openGroup(t.Context(), deps); err == nil || !strings.Contains(err.Error(), "holds group") {
		t.Errorf("got %v", err)
	}
	deps.Record.ID, deps.Record.VMs = journal.GroupID{1}, nil
	if _, err := openGroup(t.Context(), deps); err == nil || !strings.Contains(err.Error(), "not known") {
		t.Errorf("got %v", err)
	}
}

// Neither a clock set forward nor the end of protection takes history away.
func TestAges(t *testing.T) {
	began := time.Unix(1e9, 0)
	for _, c := range []struct {
		intent catalog.Intent
		now    time.Duration // since began, by the wall clock
		want   time.Duration
		cut    bool
	}{
		{catalog.IntentProtect, time.Hour, time.Hour, true},
		{catalog.IntentPause, -time.Hour, -time.Hour, true},
		{catalog.IntentProtect, 365 * 24 * time.Hour, time.Hour, true},
		{catalog.IntentStop, time.Hour, time.Hour, false},
	} {
		r := groupRecord{Group: catalog.Group{Intent: c.intent}}
		if at, cut := ages(r, began, time.Hour, began.Add(c.now)); !at.Equal(began.Add(c.want)) || cut != c.cut {
			t.Errorf("%+v: %v, %v", c, at.Sub(began), cut)
		}
	}
}
