package relay

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
)

// BenchmarkShip ships a spool in memory over loopback into a journal in memory;
// an operation is a batch of 64 writes of 4 KiB. MB/s is the figure.
func BenchmarkShip(b *testing.B) {
	for _, noise := range []bool{true, false} {
		b.Run(fmt.Sprintf("noise=%v", noise), func(b *testing.B) { benchmarkShip(b, noise) })
	}
}

func benchmarkShip(b *testing.B, noise bool) {
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
	h := startHub(b, ReceiverConfig{Open: into(far)}, Config{})
	wake := make(chan struct{}, 1)
	w := newWriter(b, spool, 1, wake)
	a := startAgent(b, spool, wake, h.addr(), Config{}, nil)
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
}
