package replica

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
)

// benchStore holds n random 4 KiB writes over twice that many blocks; WRITES
// overrides n. Each takes 4 KiB of disk.
func benchStore(b *testing.B, n int) (*Store, int64) {
	if v, err := strconv.Atoi(os.Getenv("WRITES")); err == nil {
		n = v
	}
	blocks := int64(n) * 2
	s, err := Create(vfs.OS(), b.TempDir(), Manifest{ID: journal.GroupID{1}, Volumes: []Volume{{ID: 1, Size: blocks * 4096}}}, Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	log := s.Log()
	must(b, log.AppendControl(0, journal.VolumeAdded{Volume: 1, Size: blocks * 4096}))
	must(b, log.AppendControl(1, journal.Attach{}))
	must(b, log.AppendControl(1, journal.SyncEnd{Volume: 1}))
	rng := rand.New(rand.NewPCG(1, 2))
	const perBatch = 256
	size := journal.EntrySize(4096)
	region := make([]byte, perBatch*size)
	for done := 0; done < n; done += perBatch {
		first := log.Appended() + 1
		for i := range perBatch {
			p := region[i*size:]
			h := journal.Header{Op: journal.OpWrite, Volume: 1, Seq: first + journal.Seq(i), Off: rng.Int64N(blocks) * 4096,
				Len: 4096, PayloadLen: 4096, Time: time.Now().UnixNano()}
			h.Encode(p)
			p[journal.EntryHeaderSize] = byte(done)
			journal.CommitEntry(p)
		}
		batch := journal.Batch{Kind: journal.KindWrites, Epoch: 1, First: first, Regions: [][]byte{region}}
		err := log.Append(batch)
		for ; errors.Is(err, journal.ErrBehind); err = log.Append(batch) {
			_, err := log.Sync()
			must(b, err)
			runtime.Gosched()
		}
		must(b, err)
	}
	must(b, log.AppendControl(1, journal.Fence{Seq: log.Appended()}))
	_, err = log.Sync()
	must(b, err)
	return s, blocks
}

// BenchmarkViewReadAt reads random blocks of 4 KiB.
func BenchmarkViewReadAt(b *testing.B) {
	s, blocks := benchStore(b, 100_000)
	v, err := s.View(1, s.Log().Appended())
	must(b, err)
	defer v.Close()
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		p := make([]byte, 4096)
		rng := rand.New(rand.NewPCG(rand.Uint64(), 3))
		for pb.Next() {
			if _, err := v.ReadAt(p, rng.Int64N(blocks)*4096); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkRetain rolls all of the history into the base.
func BenchmarkRetain(b *testing.B) {
	for b.Loop() {
		s, _ := benchStore(b, 100_000)
		start := time.Now()
		res, err := s.Retain(context.Background(), time.Now(), Retention{History: 1})
		must(b, err)
		b.ReportMetric(float64(res.BytesWritten)/(1<<20)/time.Since(start).Seconds(), "MiB/s")
	}
}
