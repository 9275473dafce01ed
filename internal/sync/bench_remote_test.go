package sync

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/replica"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vm/vmtest"
	"github.com/rephub/rephub/journal"
)

var _ Hasher = (*replica.Hashes)(nil)

// benchReplica is a real replica with a base image like the volume.
func benchReplica(b *testing.B, size int64, content []byte) *replica.Store {
	b.Helper()
	s, err := replica.Create(vfs.OS(), filepath.Join(b.TempDir(), "g"), replica.Manifest{ID: journal.GroupID{1}, Name: "g",
		Volumes: []replica.Volume{{ID: 1, Size: size}}}, replica.Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	base, err := s.Base(1)
	if err != nil {
		b.Fatal(err)
	}
	for off := int64(0); off < size; off += int64(len(content)) {
		if _, err := base.WriteAt(content, off); err != nil {
			b.Fatal(err)
		}
	}
	for _, err := range []error{
		base.Sync(),
		s.SetSyncProgress(1, size),
		s.Log().AppendControl(0, journal.VolumeAdded{Volume: 1, Size: size}),
		s.Log().AppendControl(1, journal.Attach{Seq: 10}),
	} {
		if err != nil {
			b.Fatal(err)
		}
	}
	if _, err := s.Log().Sync(); err != nil {
		b.Fatal(err)
	}
	return s
}

// BenchmarkCompare compares a full volume of a QEMU with a replica at the other
// end of a socket, agent and hub in one process; and, to compare that with, reads
// the volume.
func BenchmarkCompare(b *testing.B) {
	const size = 2 << 30
	content := make([]byte, 4<<20)
	for i := range content {
		content[i] = byte(i*i>>7 + i)
	}
	q := vmtest.Start(b, vmtest.Config{Disks: []vmtest.Disk{{Size: size}}})
	uri := q.GuestURI("disk0")
	guest := dialPool(b, uri)
	for off := int64(0); off < size; off += int64(len(content)) {
		if err := guest.WriteAt(b.Context(), content, off, 0); err != nil {
			b.Fatal(err)
		}
	}
	store := benchReplica(b, size, content)
	// By turns, because machines are busy now and then: read, all hashed, all kept.
	var times [3][]time.Duration
	var wire int64
	b.SetBytes(size)
	for b.Loop() {
		for kind := range times {
			if kind < 2 {
				forget(b, store)
			}
			begin := time.Now()
			if kind == 0 {
				if err := readAll(b.Context(), NewSource(dialPool(b, uri)), size); err != nil {
					b.Fatal(err)
				}
			} else {
				wire = compareOnce(b, store, uri)
			}
			times[kind] = append(times[kind], time.Since(begin))
		}
	}
	for kind, unit := range []string{"read-MB/s", "hashed-MB/s", "kept-MB/s"} {
		slices.Sort(times[kind])
		b.ReportMetric(size/1e6/times[kind][len(times[kind])/2].Seconds(), unit)
	}
	b.ReportMetric(100*float64(wire)/size, "wire-%")
}

// compareOnce compares equal volumes, and returns the bytes on the wire.
func compareOnce(b *testing.B, store *replica.Store, uri string) int64 {
	b.Helper()
	h, err := store.Hashes(1)
	if err != nil {
		b.Fatal(err)
	}
	c := newDistant(b, h)
	defer c.Close()
	pool := dialPool(b, uri)
	defer pool.Close()
	var s tally
	if err := Compare(b.Context(), NewSource(pool), c.Current, &s, Options{}); err != nil {
		b.Fatal(err)
	}
	if s.bytes != 0 {
		b.Fatalf("%d bytes differ", s.bytes)
	}
	return c.wire.Load()
}

// forget has the replica hash everything anew.
func forget(b *testing.B, s *replica.Store) {
	b.Helper()
	if err := os.Truncate(filepath.Join(s.Dir(), "hashes", "V1"), 4096); err != nil && !os.IsNotExist(err) {
		b.Fatal(err)
	}
}

// readAll reads the volume as a sync does, and nothing else.
func readAll(ctx context.Context, src Source, size int64) error {
	return pipeline(ctx, 16, func(_ context.Context, emit func(piece) error) error {
		return split(block.Range{Len: size}, 256<<10, func(r block.Range) error { return emit(piece{Range: r}) })
	}, func(ctx context.Context) func(piece) error {
		buf := bytes.Repeat([]byte{1}, 256<<10)
		return func(p piece) error { return src.ReadAt(ctx, buf[:p.Len], p.Off) }
	})
}
