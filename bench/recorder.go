package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rephub/rephub/internal/keeper"
	"github.com/rephub/rephub/internal/tap"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
)

// The recorder is the part of a hub that a tap meets: it has the keeper's ring
// of one group drained into a journal on disk, and fio takes the place of QEMU.
// It is a process of its own, as the hub is.

const (
	recordGroup  = "bench"
	recordVolume = journal.VolumeID(1)
	recordEpoch  = journal.Epoch(1)
	syncEvery    = 50 * time.Millisecond // as the hub
)

// offered is the recorder's first line: where the tap is.
type offered struct {
	Socket string `json:"socket"`
	Token  string `json:"token"`
}

// progress answers every line sent to the recorder.
type progress struct {
	Assigned uint64 `json:"assigned"` // last seq the keeper gave out
	Durable  uint64 `json:"durable"`  // last seq that a power loss leaves
	Void     uint64 `json:"void"`     // writes that were answered and not recorded
	Bytes    int64  `json:"bytes"`    // of the journal's segments
	Keeper   int    `json:"keeper"`   // its process
	Err      string `json:"err,omitempty"`
}

type recorder struct {
	client *keeper.Client
	cons   *tap.Consumer
	log    *journal.Log
}

// runRole is what a child of the benchmark does instead of measuring.
func runRole(role string, args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case role == "record" && len(args) == 2:
		size, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil {
			return err
		}
		return record(ctx, args[0], size)
	case role == "fill" && len(args) == 2:
		writes, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return fill(ctx, args[0], writes)
	case role == "roll" && len(args) == 1:
		return rollBase(ctx, args[0])
	case role == "view" && len(args) == 1:
		return serveView(ctx, args[0])
	}
	return fmt.Errorf("no role %q with %d arguments", role, len(args))
}

// record offers a tap of size bytes and records it below dir until standard
// input ends.
func record(ctx context.Context, dir string, size int64) error {
	r, off, err := openRecorder(ctx, dir, size)
	if err != nil {
		return err
	}
	defer r.client.Close()
	if err := json.NewEncoder(os.Stdout).Encode(off); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.cons.Drain(ctx, tap.DrainConfig{}, r.write) })
	g.Go(func() error { return r.syncing(ctx) })
	answers := make(chan error, 1)
	go func() { answers <- r.answer() }()
	select {
	case err = <-answers:
	case <-ctx.Done():
	}
	cancel()
	if werr := g.Wait(); !errors.Is(werr, context.Canceled) {
		err = errors.Join(err, werr)
	}
	// The ring has served; without it the keeper need not linger for a reader.
	_ = r.client.CloseRing(context.WithoutCancel(ctx), recordGroup)
	return errors.Join(err, r.log.Close())
}

func openRecorder(ctx context.Context, dir string, size int64) (*recorder, offered, error) {
	exe, err := filepath.Abs(binary)
	if err != nil {
		return nil, offered{}, err
	}
	client, err := keeper.Ensure(ctx, keeper.ClientConfig{Dir: filepath.Join(dir, "keeper"), Exe: exe})
	if err != nil {
		return nil, offered{}, err
	}
	log, err := journal.Create(vfs.OS(), filepath.Join(dir, "journal"), journal.GroupID{1}, journal.Options{})
	if err != nil {
		return nil, offered{}, err
	}
	cons, _, err := client.OpenRing(ctx, recordGroup, ringSize)
	if err != nil {
		return nil, offered{}, err
	}
	err = log.AppendControl(0, journal.VolumeAdded{Volume: recordVolume, Size: size})
	if err == nil {
		err = log.AppendControl(recordEpoch, journal.Attach{Seq: 1, Whole: []journal.VolumeID{recordVolume}})
	}
	if err == nil {
		err = client.Unvoid(ctx, recordGroup, recordEpoch, 2)
	}
	if err != nil {
		return nil, offered{}, err
	}
	offers, err := client.Offer(ctx, recordGroup, []keeper.Volume{{ID: recordVolume, Size: size}})
	if err != nil {
		return nil, offered{}, err
	}
	return &recorder{client: client, cons: cons, log: log},
		offered{Socket: client.TapSocket(), Token: offers[0].Token}, nil
}

// ringSize is the hub's default, in bytes.
const ringSize = 256 << 20

// write is Drain's sink. While it waits, the ring takes what comes.
func (r *recorder) write(run tap.Run) error {
	b := journal.Batch{Kind: journal.KindWrites, Epoch: run.Epoch, First: run.First}
	for _, region := range run.Regions {
		if len(region) > 0 {
			b.Regions = append(b.Regions, region)
		}
	}
	return appendPatiently(context.Background(), r.log, b)
}

func (r *recorder) syncing(ctx context.Context) error {
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if r.log.Durable() == r.log.Appended() {
			continue
		}
		if _, err := r.log.Sync(); err != nil {
			return err
		}
	}
}

func (r *recorder) answer() error {
	enc := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		s := r.cons.State()
		p := progress{Assigned: uint64(s.Last), Durable: uint64(r.log.Durable()), Void: s.VoidWrites,
			Bytes: r.log.Bytes(), Keeper: r.client.PID()}
		if err := r.log.Err(); err != nil {
			p.Err = err.Error()
		}
		if err := enc.Encode(p); err != nil {
			return err
		}
	}
	return nil
}
