package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// qemuVolume is the size of the volume in bytes; it is held in memory.
const qemuVolume = 512 << 20

// qemuRow compares a QEMU volume that rephub protects with one whose tap ends
// in a server that does nothing: the floor that QEMU's mirror itself sets.
func qemuRow(name string, depth int) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		dir := filepath.Join(b.dir, name)
		defer os.RemoveAll(dir)
		h, err := startHub(ctx, filepath.Join(dir, "hub"))
		if err != nil {
			return err
		}
		defer h.end()
		q := &qemuRuns{bench: b, hub: h, name: name, dir: dir,
			load: load{rw: "randwrite", block: 4096, depth: depth, size: qemuVolume, run: b.seconds}}
		ours, peer, err := b.inTurns(
			func() (float64, error) { return q.once(ctx, &q.oursP99, q.protected) },
			func() (float64, error) { return q.once(ctx, &q.peerP99, q.floor) })
		if err != nil {
			return err
		}
		b.add(result{Name: name, What: whatOf(name), Unit: "IOPS", Ours: ours, Peer: peer,
			PeerIs: "nbdkit null", Target: 0.85, AtLeast: true})
		b.add(result{Name: name + "-p99", What: "  … its 99th percentile", Unit: "µs", Ours: q.oursP99, Peer: q.peerP99,
			PeerIs: "nbdkit null", Target: 2})
		return nil
	}
}

// qemuRuns is what the runs of one row share.
type qemuRuns struct {
	bench            *bench
	hub              *hub
	name, dir        string
	load             load
	count            int
	oursP99, peerP99 []float64
}

// once starts a fresh emulator on tmpfs, has tap put a tap on it, and loads it.
// check is called after the load, before QEMU ends.
func (q *qemuRuns) once(ctx context.Context, p99 *[]float64, tap func(context.Context, string, *emulator) (check func() error, err error)) (float64, error) {
	q.count++
	name := fmt.Sprintf("%s-%d", q.name, q.count)
	dir := filepath.Join(q.bench.shm, name)
	defer os.RemoveAll(dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	image := filepath.Join(dir, "vol.raw")
	if err := makeFile(image, qemuVolume); err != nil {
		return 0, err
	}
	e, err := startQEMU(ctx, dir, []disk{{"vol", image}})
	if err != nil {
		return 0, err
	}
	defer e.stop()
	check, err := tap(ctx, name, e)
	if err != nil {
		return 0, err
	}
	l := q.load
	l.uri = unixURI(e.socket, "vol")
	m, err := fio(ctx, l)
	if err != nil {
		return 0, err
	}
	*p99 = append(*p99, m.p99)
	return m.iops, check()
}

// protected taps with rephub; the group must still be whole after the load.
func (q *qemuRuns) protected(ctx context.Context, name string, e *emulator) (func() error, error) {
	_, err := q.hub.protect(ctx, name, e)
	return func() error {
		if err := q.hub.wholeGroup(ctx, name); err != nil {
			return err
		}
		return q.hub.unprotect(ctx, name)
	}, err
}

func (q *qemuRuns) floor(ctx context.Context, _ string, e *emulator) (func() error, error) {
	socket := filepath.Join(q.dir, "null.sock")
	s, err := nbdkit(ctx, socket, "null", fmt.Sprint(qemuVolume))
	if err != nil {
		return nil, err
	}
	if err := e.tapTo(ctx, "vol", socket, ""); err != nil {
		s.stop()
		return nil, err
	}
	return func() error {
		e.stop() // before its tap goes
		s.stop()
		return nil
	}, nil
}
