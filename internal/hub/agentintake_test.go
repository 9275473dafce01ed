package hub

import (
	"errors"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/replica"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
)

// An initial sync that the base does not have, because base and journal were put
// back from an older copy, has no end: no point is offered on it.
func TestEndOfASyncThatTheBaseLacks(t *testing.T) {
	const size = 1 << 20
	id := newGroupID()
	quiet := slog.New(slog.DiscardHandler)
	store, err := replica.Create(vfs.OS(), filepath.Join(shortDir(t), "g"), replica.Manifest{
		ID: id, Name: "g", Volumes: []replica.Volume{{ID: 1, UUID: "u", Name: "vm/disk", Size: size}},
	}, replica.Config{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	in := newIntake(store, quiet)
	ship := spooled(t, id)
	send := func(recs ...journal.Control) error {
		t.Helper()
		return in.Append(ship(recs...))
	}
	for _, c := range []journal.Control{journal.VolumeAdded{Volume: 1, Name: "vm/disk", Size: size}, journal.Attach{Seq: 1}} {
		if err := send(c); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.SetSyncProgress(1, size/2); err != nil {
		t.Fatal(err)
	}
	end := ship(journal.SyncBegin{Volume: 1, Kind: protect.KindFull}, journal.SyncEnd{Volume: 1, Kind: protect.KindFull})
	if err := in.Append(end); !errors.Is(err, journal.ErrGap) {
		t.Fatalf("a base that is half complete: %v", err)
	}
	if err := store.SetSyncProgress(1, size); err != nil {
		t.Fatal(err)
	}
	if err := in.Append(end); err != nil {
		t.Fatal(err)
	}
	if err := send(journal.SyncEnd{Volume: 1, Kind: "compare"}); err != nil {
		t.Fatal(err)
	}
}

// spooled makes batches as a spool numbers them, in epoch 1 once attached.
func spooled(t *testing.T, id journal.GroupID) func(...journal.Control) journal.Batch {
	dir := t.TempDir()
	log, err := journal.Create(vfs.OS(), dir, id, journal.Options{Number: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return func(recs ...journal.Control) journal.Batch {
		t.Helper()
		epoch := log.Timeline().Epoch
		if _, ok := recs[0].(journal.Attach); ok {
			epoch++
		}
		after := log.Serial()
		if err := log.AppendControl(epoch, recs...); err != nil {
			t.Fatal(err)
		}
		f, err := log.Follow(after)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		s, ok, err := f.Next()
		if err != nil || !ok {
			t.Fatalf("follow the spool: %v, %v", ok, err)
		}
		s.Entries = append([]byte(nil), s.Entries...)
		return s.Batch()
	}
}
