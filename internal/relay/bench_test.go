package relay

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
)

// BenchmarkShip ships a spool in memory over loopback into a journal in memory;
// an operation is a batch of 64 writes of 4 KiB. MB/s is the figure; cpu-s/GB is
// the processor time of both ends together, journals included.
func BenchmarkShip(b *testing.B) {
	for _, noise := range []bool{true, false} {
		b.Run(fmt.Sprintf("tcp/noise=%v", noise), func(b *testing.B) { benchmarkShip(b, network{}, noise) })
		b.Run(fmt.Sprintf("tls/noise=%v", noise), func(b *testing.B) { benchmarkShip(b, secure(b), noise) })
	}
}

func benchmarkShip(b *testing.B, n network, noise bool) {
	const batch, size = 64, 4096
	open := func(name string, number bool) *journal.Log {
		dir, err := os.MkdirTemp("/dev/shm", "relay-bench")
		must(b, err)
		b.Cleanup(func() { _ = os.RemoveAll(dir) })
		l, err := journal.Create(vfs.OS(), filepath.Join(dir, name), groupID(1), journal.Options{Number: number, MaxPending: 1000})
		must(b, err)
		b.Cleanup(func() { _ = l.Close() })
		return l
	}
	spool, far := open("spool", true), open("hub", false)
	h := n.hub(b, ReceiverConfig{Open: into(far)}, Config{})
	wake := make(chan struct{}, 1)
	w := newWriter(b, spool, 1, wake)
	a := n.agent(b, spool, wake, h.addr(), Config{}, nil)
	r := rand.New(rand.NewPCG(1, 1))
	region := make([]byte, batch*journal.EntrySize(size))
	for i := range region {
		if region[i] = byte(i >> 6); noise {
			region[i] = byte(r.Uint32())
		}
	}
	b.SetBytes(batch * size)
	b.ReportAllocs()
	b.ResetTimer()
	before := processorTime(b)
	for range b.N {
		first := spool.Appended() + 1
		for i := range batch {
			p := region[i*journal.EntrySize(size):]
			h := journal.Header{Op: journal.OpWrite, Seq: first + journal.Seq(i), Volume: 1, Off: int64(i) * size, Len: size, PayloadLen: size, Time: 1}
			h.Encode(p)
			journal.CommitEntry(p)
		}
		must(b, spool.Append(journal.Batch{Kind: journal.KindWrites, Epoch: w.epoch, First: first, Regions: [][]byte{region}}))
		poke(wake)
		if spool.Serial()-a.s.Status().Sent > 200 {
			await(b, "the relay keeps up", func() bool { return spool.Serial()-a.s.Status().Sent < 100 })
			_, err := spool.Sync()
			must(b, err)
		}
	}
	await(b, "all is durable", func() bool { return a.s.Durable().Serial == spool.Serial() })
	b.ReportMetric((processorTime(b)-before).Seconds()/(float64(b.N)*batch*size/1e9), "cpu-s/GB")
}

// BenchmarkPipe sends 1 MiB through a pipe; it can be compressed or not.
func BenchmarkPipe(b *testing.B) {
	for _, seed := range []uint64{0, 1} {
		b.Run(fmt.Sprintf("tcp/noise=%v", seed > 0), func(b *testing.B) { benchmarkPipe(b, network{}, seed) })
		b.Run(fmt.Sprintf("tls/noise=%v", seed > 0), func(b *testing.B) { benchmarkPipe(b, secure(b), seed) })
	}
}

func benchmarkPipe(b *testing.B, n network, seed uint64) {
	cfg, ch := serving()
	near, _ := n.pair(b, Config{}, cfg)
	p, far := open(b, near, ch, "x")
	data := make([]byte, 1<<20)
	if seed > 0 {
		data = noise(len(data), seed)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	b.ResetTimer()
	before := processorTime(b)
	wrote := make(chan error, 1)
	go func() {
		var err error
		for range b.N {
			if _, err = p.Write(data); err != nil {
				break
			}
		}
		wrote <- err
	}()
	_, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{io.LimitReader(far, int64(b.N)<<20)}, make([]byte, 1<<20))
	must(b, err)
	must(b, <-wrote)
	b.ReportMetric((processorTime(b)-before).Seconds()/(float64(b.N)*float64(len(data))/1e9), "cpu-s/GB")
}

// processorTime is what this process has used.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
