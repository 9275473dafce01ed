package journal

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vfs"
)

// BenchmarkAppend appends 4 KiB writes as the drainer does: a batch from the
// ring at a time, a sync every 50 ms beside it. ns/entry is the figure.
func BenchmarkAppend(b *testing.B) {
	for _, where := range []struct{ name, dir string }{{"tmpfs", "/dev/shm"}, {"disk", ""}} {
		for _, batch := range []int{64, 512} {
			b.Run(fmt.Sprintf("%s/batch=%d", where.name, batch), func(b *testing.B) {
				benchmarkAppend(b, where.dir, batch)
			})
		}
	}
}

func benchmarkAppend(b *testing.B, parent string, n int) {
	dir, err := os.MkdirTemp(parent, "journal-bench")
	must(b, err)
	b.Cleanup(func() { os.RemoveAll(dir) })
	l, err := Create(vfs.OS(), filepath.Join(dir, "journal"), testGroup, Options{})
	must(b, err)
	b.Cleanup(func() { l.Close() })
	must(b, l.AppendControl(1, Attach{}))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if _, err := l.Sync(); err != nil {
					b.Error(err)
				}
			}
		}
	}()
	// The ring: 16 MiB of entries, used again and again.
	size := EntrySize(4096)
	ring := make([]byte, 4096*size)
	for i := range ring {
		ring[i] = byte(i * 7)
	}
	regions := make([][]byte, 1)
	b.ReportAllocs()
	b.ResetTimer()
	var before, after syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &before))
	pos := 0
	for done := 0; done < b.N; {
		k := min(n, b.N-done)
		if pos+k*size > len(ring) {
			pos = 0
		}
		first := l.Appended() + 1
		region := ring[pos : pos+k*size]
		now := time.Now().UnixNano()
		for i := range k {
			e := region[i*size:]
			h := Header{Op: OpWrite, Seq: first + Seq(i), Volume: 1, Off: int64(uint64(first+Seq(i))*2654435761%(1<<20)) * 4096, Len: 4096, PayloadLen: 4096, Time: now}
			h.Encode(e)
			CommitEntry(e)
		}
		regions[0] = region
		for {
			err := l.Append(Batch{Kind: KindWrites, Epoch: 1, First: first, Regions: regions})
			if err == nil {
				break
			}
			if err != ErrBehind {
				b.Fatal(err)
			}
		}
		done += k
		pos += k * size
	}
	b.StopTimer()
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &after))
	// On a busy machine the processor time tells more than the clock: all of
	// this process, the indexer and the kernel's copying included.
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/entry")
	b.ReportMetric(float64(after.Utime.Nano()-before.Utime.Nano())/float64(b.N), "user-ns/entry")
	b.ReportMetric(float64(after.Stime.Nano()-before.Stime.Nano())/float64(b.N), "sys-ns/entry")
	close(stop)
	<-stopped
}
