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

// tapRow compares the tap with nbdkit writing to a file: both take writes over
// a unix socket, and both put them on the same disk in the end.
func tapRow(name string, block, depth int, target float64) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		dir := filepath.Join(b.dir, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		l := load{rw: "randwrite", block: block, depth: depth, size: tapVolume, run: b.seconds}
		var lag []float64
		var void uint64
		count := 0
		ours, peer, err := b.inTurns(
			func() (float64, error) {
				count++
				r, err := tapOnce(ctx, filepath.Join(dir, fmt.Sprint("ours-", count)), l)
				lag = append(lag, r.lag.Seconds())
				void += r.void
				return r.iops, err
			},
			func() (float64, error) { return fileOnce(ctx, dir, l) })
		if err != nil {
			return err
		}
		speed := result{Name: name, What: whatOf(name), Unit: "IOPS", Ours: ours, Peer: peer,
			PeerIs: "nbdkit file", Target: target, AtLeast: true}
		if block > 4096 {
			// More than a disk takes: nbdkit leaves it in memory, the tap goes
			// void. The figure is what the VM sees, and the note says so.
			all := median(ours) * b.seconds.Seconds() * float64(b.runs)
			speed.Note = fmt.Sprintf("%d of our about %.0f writes went void: answered, not recorded, left to a bitmap sync", void, all)
			b.add(speed)
			return nil
		}
		b.add(speed)
		b.add(durability(name, lag, void))
		return nil
	}
}

// durability is the second half of the target for small writes.
func durability(name string, lag []float64, void uint64) result {
	r := result{Name: name + "-durable", What: "  … every write in the journal on disk within", Unit: "s",
		Ours: []float64{maxOf(lag)}, Target: durableWithin.Seconds(), Note: "the worst of all runs, sampled every 20 ms and at the end"}
	if void > 0 {
		r.Failed = fmt.Sprintf("%d writes went void, the disk could not keep up: they are not in the journal", void)
	}
	return r
}

// tapRun is what one run found.
type tapRun struct {
	iops float64
	lag  time.Duration // the longest time that a write took to the disk
	void uint64        // writes that are not in the journal
}

func tapOnce(ctx context.Context, dir string, l load) (tapRun, error) {
	defer os.RemoveAll(dir)
	t, err := startTap(dir, l.size)
	if err != nil {
		return tapRun{}, err
	}
	defer t.end()
	l.uri = t.uri()
	stop := make(chan struct{})
	watched := make(chan lagged, 1)
	go func() { watched <- t.watchLag(stop) }()
	m, err := fio(ctx, l)
	close(stop)
	w := <-watched
	if err = errors.Join(err, w.err); err != nil {
		return tapRun{}, err
	}
	last, err := t.settle(ctx, 30*time.Second)
	return tapRun{iops: m.iops, lag: max(w.worst, last), void: t.void}, err
}

// fileOnce is the peer's side: a fresh file each time, as our journal is.
func fileOnce(ctx context.Context, dir string, l load) (float64, error) {
	file := filepath.Join(dir, "peer.raw")
	defer os.Remove(file)
	if err := makeFile(file, l.size); err != nil {
		return 0, err
	}
	socket := filepath.Join(dir, "peer.sock")
	s, err := nbdkit(ctx, socket, "file", file)
	if err != nil {
		return 0, err
	}
	defer s.stop()
	l.uri = unixURI(socket, "")
	m, err := fio(ctx, l)
	return m.iops, err
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
