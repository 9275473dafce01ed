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
		return q.compare(ctx, q.protected)
	}
}

// compare runs our tap and the floor in turns.
func (q *qemuRuns) compare(ctx context.Context, tap tapping) error {
	ours, peer, err := q.bench.inTurns(
		func() (float64, error) { return q.once(ctx, &q.oursP99, tap) },
		func() (float64, error) { return q.once(ctx, &q.peerP99, q.floor) })
	if err != nil {
		return err
	}
	q.bench.add(result{Name: q.name, What: whatOf(q.name), Unit: "IOPS", Ours: ours, Peer: peer,
		PeerIs: "nbdkit null", Target: 0.85, AtLeast: true})
	q.bench.add(result{Name: q.name + "-p99", What: "  … its 99th percentile", Unit: "µs", Ours: q.oursP99, Peer: q.peerP99,
		PeerIs: "nbdkit null", Target: 2})
	return nil
}

// tapping puts a tap on an emulator; check is called after the load, before QEMU
// ends.
type tapping func(ctx context.Context, name string, e *emulator) (check func() error, err error)

// agentRow is qemuRow with the hub behind an agent. Both are on this machine, so
// the VM shares its processors with the hub too, as it would not elsewhere.
func agentRow(name string, depth int) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		dir := filepath.Join(b.dir, name)
		defer os.RemoveAll(dir)
		addr, err := freePort()
		if err != nil {
			return err
		}
		h, err := startHub(ctx, filepath.Join(dir, "hub"), "--agents", addr)
		if err != nil {
			return err
		}
		defer h.end()
		q := &qemuRuns{bench: b, hub: h, addr: addr, name: name, dir: dir,
			load: load{rw: "randwrite", block: 4096, depth: depth, size: qemuVolume, run: b.seconds}}
		return q.compare(ctx, q.throughAgent)
	}
}

// qemuRuns is what the runs of one row share.
type qemuRuns struct {
	bench            *bench
	hub              *hub
	addr             string // where agents reach it
	name, dir        string
	load             load
	count            int
	oursP99, peerP99 []float64
}

// once starts a fresh emulator on tmpfs, has tap put a tap on it, and loads it.
func (q *qemuRuns) once(ctx context.Context, p99 *[]float64, tap tapping) (float64, error) {
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

// throughAgent taps with an agent that ships to the hub.
func (q *qemuRuns) throughAgent(ctx context.Context, name string, e *emulator) (func() error, error) {
	a, err := startAgent(ctx, filepath.Join(q.dir, "agent-"+name), q.hub, q.addr, e)
	if err != nil {
		return nil, err
	}
	if err := q.hub.cli(ctx, nil, "protect", e.vm(), "--group", name, "--wait"); err != nil {
		e.stop()
		a.end()
		return nil, err
	}
	return func() error {
		err := q.hub.durable(ctx, name)
		if err == nil {
			err = q.hub.wholeGroup(ctx, name)
		}
		if err == nil {
			err = q.hub.cli(ctx, nil, "unprotect", name)
		}
		e.stop()
		a.end()
		return err
	}, nil
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
