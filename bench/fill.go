package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/rephub/rephub/internal/replica"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
)

const (
	viewVolume = 4 << 30 // bytes; each block is rewritten about ten times by ten million writes
	viewBlock  = 4096
	fillBatch  = 512 // entries; what the hub drains at once under load
)

// fill makes a group's folder whose journal holds random writes of 4 KiB, all
// of them points. It appends what a keeper would have put into the ring.
func fill(ctx context.Context, dir string, writes int) (err error) {
	store, err := replica.Create(vfs.OS(), dir, replica.Manifest{ID: journal.GroupID{1}, Name: recordGroup,
		Volumes: []replica.Volume{{ID: recordVolume, Name: "vm/vol", Size: viewVolume, Synced: viewVolume}}}, replica.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	log := store.Log()
	err = log.AppendControl(0, journal.VolumeAdded{Volume: recordVolume, Name: "vm/vol", Size: viewVolume})
	if err == nil {
		err = log.AppendControl(recordEpoch, journal.Attach{Seq: 1},
			journal.SyncEnd{Volume: recordVolume, Kind: "full"}, journal.Fence{Seq: 1, Wall: time.Now().UnixNano()})
	}
	f := newFiller()
	for next := journal.Seq(2); err == nil && int(next) < writes+2; {
		n := min(fillBatch, writes+2-int(next))
		err = appendPatiently(ctx, log, f.batch(next, n))
		next += journal.Seq(n)
	}
	if err == nil {
		err = log.AppendControl(recordEpoch, journal.Fence{Seq: journal.Seq(writes + 1), Wall: time.Now().UnixNano()})
	}
	if err == nil {
		_, err = log.Sync()
	}
	return err
}

// appendPatiently waits while the indexes of sealed segments catch up.
func appendPatiently(ctx context.Context, log *journal.Log, b journal.Batch) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		err := log.Append(b)
		if !errors.Is(err, journal.ErrBehind) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// filler makes batches in one buffer.
type filler struct {
	random  *rand.Rand
	payload []byte // random bytes, of which writes take a part
	buf     []byte
}

func newFiller() *filler {
	f := &filler{random: rand.New(rand.NewPCG(1, 2)), payload: make([]byte, 1<<20)}
	_, _ = rand.NewChaCha8([32]byte{2}).Read(f.payload)
	f.buf = make([]byte, fillBatch*journal.EntrySize(viewBlock))
	return f
}

func (f *filler) batch(first journal.Seq, n int) journal.Batch {
	size := journal.EntrySize(viewBlock)
	now := time.Now().UnixNano()
	for i := range n {
		p := f.buf[i*size : (i+1)*size]
		clear(p[:4])
		h := journal.Header{Op: journal.OpWrite, Volume: recordVolume, Seq: first + journal.Seq(i), Time: now,
			Off: f.random.Int64N(viewVolume/viewBlock) * viewBlock, Len: viewBlock, PayloadLen: viewBlock}
		h.Encode(p)
		from := f.random.IntN(len(f.payload) - viewBlock)
		copy(p[journal.EntryHeaderSize:], f.payload[from:from+viewBlock])
		journal.CommitEntry(p)
	}
	return journal.Batch{Kind: journal.KindWrites, Epoch: recordEpoch, First: first, Regions: [][]byte{f.buf[:n*size]}}
}
