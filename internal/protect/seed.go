package protect

import (
	"fmt"
	"time"

	"github.com/rephub/rephub/journal"
)

// SeedName is the checkpoint of a seed.
const SeedName = "seed"

// Seed makes what is in the base images of a new group its first point, named SeedName and durable: the volumes as they were before the VM was protected, at another time or place. The next sync compares with
// it, so that only what differs is copied, and what differs is not lost. Sizes are those of what is in the images, in bytes.
func Seed(log Journal, epoch journal.Epoch, volumes []Volume, now time.Time) error {
	var recs []journal.Control
	for _, v := range volumes {
		recs = append(recs, journal.VolumeAdded{Volume: v.ID, UUID: v.UUID, Name: v.Name(), Size: v.Size})
	}
	if err := log.AppendControl(0, recs...); err != nil {
		return fmt.Errorf("note the seeds: %w", err)
	}
	const seq = 1
	recs = []journal.Control{journal.Attach{Seq: seq, Reason: SeedName}}
	for _, v := range volumes {
		recs = append(recs, journal.SyncBegin{Volume: v.ID, Kind: KindFull}, journal.SyncEnd{Volume: v.ID, Kind: KindFull, Bytes: v.Size})
	}
	recs = append(recs, journal.Fence{Seq: seq, Wall: now.UnixNano(), Mono: monotonic(), Boot: BootID()},
		journal.Checkpoint{Name: SeedName, Seq: seq, Kind: "named", Time: now.UnixNano()}, journal.Detach{Reason: SeedName})
	if err := log.AppendControl(epoch, recs...); err != nil {
		return fmt.Errorf("note the point of the seeds: %w", err)
	}
	if _, err := log.Sync(); err != nil {
		return fmt.Errorf("make the point of the seeds durable: %w", err)
	}
	return nil
}
