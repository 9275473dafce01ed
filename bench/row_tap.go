package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"
)

// tapVolume is the size of the volume that is written to, in bytes.
const tapVolume = 1 << 30

// durableWithin is how soon every write must be in the journal on disk.
const durableWithin = time.Second

// smallShares of the peer's speed are tried, the first without a limit; the
// others where the tap was faster than the journal's disk.
var smallShares = []float64{unlimited, 1.5, 1.3, 1.2, 1.1, 1.02, 0.9, 0.7, 0.5}

// unlimited is the share of a run that is not held back.
const unlimited = 0

// tapRow compares the tap with nbdkit writing to a file: both take writes over
// a unix socket, and both put them on the same disk in the end. A tap answers as
// fast as it is asked; only what was recorded counts as its speed.
func tapRow(name string, depth int, target float64) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		dir := filepath.Join(b.dir, name)
		defer os.RemoveAll(dir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		t := tapRuns{dir: dir, load: load{rw: "randwrite", block: 4096, depth: depth, size: tapVolume, run: b.seconds}}
		ours, peer, err := t.beside(ctx, b, smallShares)
		if err != nil {
			return err
		}
		b.add(result{Name: name, What: whatOf(name), Unit: "IOPS", Ours: ours, Peer: peer,
			PeerIs: "nbdkit file", Target: target, AtLeast: true, Note: t.cpuNote() + t.unlimitedNote()})
		b.add(t.durability(name))
		return nil
	}
}

// tapRuns is what the runs of one row share.
type tapRuns struct {
	dir              string
	load             load
	count            int
	lag              []float64 // of the runs that count, as in tapRun
	outran           []float64 // writes per second of the runs without a limit that went void
	ourCPU, peersCPU []float64 // µs per write, of the runs that count
}

// tapRun is one run of a tap.
type tapRun struct {
	iops         float64
	void, writes uint64  // writes that are not in the journal, and all of them
	lag          float64 // seconds, the longest time that a write took to the disk
	cpu          float64 // µs per write
}

// cpuNote tells what a busy machine does not change.
func (t *tapRuns) cpuNote() string {
	return fmt.Sprintf("CPU time per write: %.3g µs (fio, keeper, hub), %.3g µs (fio, nbdkit)", median(t.ourCPU), median(t.peersCPU))
}

// unlimitedNote tells of runs in which the tap was faster than the disk.
func (t *tapRuns) unlimitedNote() string {
	if len(t.outran) == 0 {
		return ""
	}
	return fmt.Sprintf("; without a limit the VM saw %.4g writes/s in %d runs, and a part of them went void: "+
		"their speed is the highest rate, in steps from %g to %g of nbdkit's, at which every write was recorded",
		median(t.outran), len(t.outran), smallShares[1], smallShares[len(smallShares)-1])
}

// beside is each run of ours and the one of nbdkit that it was measured against,
// which comes first.
func (t *tapRuns) beside(ctx context.Context, b *bench, shares []float64) (ours, peer []float64, err error) {
	var theirs float64
	return b.inTurns(
		func() (v float64, err error) {
			if theirs, err = t.peer(ctx); err == nil {
				v, err = t.recorded(ctx, theirs, shares)
			}
			return v, err
		},
		func() (float64, error) { return theirs, nil })
}

// recorded is the speed of the first run, at the shares of peer one after the
// other, of which every write was recorded.
func (t *tapRuns) recorded(ctx context.Context, peer float64, shares []float64) (float64, error) {
	for _, share := range shares {
		r, err := t.ours(ctx, int(share*peer))
		if err != nil {
			return 0, err
		}
		if r.void == 0 {
			t.lag, t.ourCPU = append(t.lag, r.lag), append(t.ourCPU, r.cpu)
			return r.iops, nil
		}
		if share == unlimited {
			t.outran = append(t.outran, r.iops)
		}
	}
	return 0, fmt.Errorf("writes went void even at %d per second", int(shares[len(shares)-1]*peer))
}

// durability is the second half of the target for small writes.
func (t *tapRuns) durability(name string) result {
	return result{Name: name + "-durable", What: "  … every write in the journal on disk within", Unit: "s",
		Ours: []float64{maxOf(t.lag)}, Target: durableWithin.Seconds(), Note: "the worst of all runs, sampled every 20 ms and at the end"}
}

// ours is one run of a tap, at no more than rate writes per second; 0 is no limit.
func (t *tapRuns) ours(ctx context.Context, rate int) (tapRun, error) {
	t.count++
	dir := filepath.Join(t.dir, fmt.Sprint("ours-", t.count))
	defer os.RemoveAll(dir)
	tap, err := startTap(dir, t.load.size)
	if err != nil {
		return tapRun{}, err
	}
	defer tap.end()
	if _, err := tap.progress(); err != nil {
		return tapRun{}, err
	}
	l := t.load
	l.uri, l.rate = tap.uri(), rate
	stop := make(chan struct{})
	watched := make(chan lagged, 1)
	go func() { watched <- tap.watchLag(stop) }()
	m, cpu, err := withCPU(ctx, l, tap.cmd.Process.Pid, tap.keeper)
	close(stop)
	w := <-watched
	if err = errors.Join(err, w.err); err != nil {
		return tapRun{}, err
	}
	last, err := tap.settle(ctx, 30*time.Second)
	return tapRun{iops: m.iops, void: tap.void, writes: uint64(m.total / int64(l.block)), lag: max(w.worst, last).Seconds(), cpu: cpu}, err
}

// peer is one run of nbdkit: with a fresh file each time, as our journal is.
func (t *tapRuns) peer(ctx context.Context) (float64, error) {
	file := filepath.Join(t.dir, "peer.raw")
	defer os.Remove(file)
	if err := makeFile(file, t.load.size); err != nil {
		return 0, err
	}
	socket := filepath.Join(t.dir, "peer.sock")
	s, err := nbdkit(ctx, socket, "file", file)
	if err != nil {
		return 0, err
	}
	defer s.stop()
	l := t.load
	l.uri = unixURI(socket, "")
	m, cpu, err := withCPU(ctx, l, s.cmd.Process.Pid)
	t.peersCPU = append(t.peersCPU, cpu)
	return m.iops, err
}

// withCPU runs a load and tells what fio and the processes given have used per
// write, in microseconds.
func withCPU(ctx context.Context, l load, pids ...int) (measured, float64, error) {
	before, err := cpuTime(pids...)
	if err != nil {
		return measured{}, 0, err
	}
	m, err := fio(ctx, l)
	if err != nil {
		return measured{}, 0, err
	}
	after, err := cpuTime(pids...)
	per := float64((after-before+m.cpu)/time.Microsecond) / float64(m.total/int64(l.block))
	return m, per, err
}

type lagged struct {
	worst time.Duration
	err   error
}

// watchLag notes every 20 ms which seq was assigned last and, later, when it
// was durable: the longest such time is what it returns.
func (t *tapped) watchLag(stop <-chan struct{}) lagged {
	type noted struct {
		seq uint64
		at  time.Time
	}
	var open []noted
	var worst time.Duration
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return lagged{worst: worst}
		case <-tick.C:
		}
		p, err := t.progress()
		if err != nil {
			return lagged{err: fmt.Errorf("ask the recorder: %w", err)}
		}
		now := time.Now()
		for len(open) > 0 && open[0].seq <= p.Durable {
			worst = max(worst, now.Sub(open[0].at))
			open = open[1:]
		}
		if len(open) > 0 {
			worst = max(worst, now.Sub(open[0].at))
		}
		open = append(open, noted{p.Assigned, now})
	}
}

func maxOf(v []float64) float64 {
	m := math.Inf(-1)
	for _, x := range v {
		m = max(m, x)
	}
	return m
}

func whatOf(name string) string {
	for _, r := range allRows() {
		if r.name == name {
			return r.what
		}
	}
	return name
}
