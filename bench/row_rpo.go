package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/rephub/rephub/internal/api"
)

const (
	rpoVolume = 1 << 30  // bytes
	rpoRate   = 50 << 20 // bytes per second
	rpoPace   = 10 * time.Millisecond
)

// rpoRow asks for a group's RPO again and again while its VM writes, and takes
// the 99th percentile in seconds. delay is of the network, there and back.
func rpoRow(name string, delay time.Duration, target float64) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		dir := filepath.Join(b.dir, name)
		defer os.RemoveAll(dir)
		var k *link
		var reach func(string) (string, error)
		if delay > 0 {
			reach = func(addr string) (_ string, err error) {
				if k, err = newLink(addr, delay); err != nil {
					return "", err
				}
				return k.addr(), nil
			}
		}
		h, err := newHost(ctx, dir, 1, oneDisk(rpoVolume), reach)
		if err != nil {
			return err
		}
		defer func() {
			h.end()
			if k != nil {
				k.close()
			}
		}()
		if err := h.protect(ctx); err != nil {
			return err
		}
		var p99 []float64
		for range b.runs {
			samples, err := sampleRPO(ctx, b, h)
			if err != nil {
				return err
			}
			slices.Sort(samples)
			p99 = append(p99, samples[len(samples)*99/100])
			fmt.Fprintf(os.Stderr, "  %d samples: median %.3f s, p99 %.3f s, most %.3f s\n",
				len(samples), median(samples), p99[len(p99)-1], samples[len(samples)-1])
		}
		b.add(result{Name: name, What: whatOf(name), Unit: "s (p99)", Ours: p99, Target: target})
		return nil
	}
}

// sampleRPO is every RPO seen while the load runs, but for its first second.
func sampleRPO(ctx context.Context, b *bench, h *host) ([]float64, error) {
	l := load{uri: unixURI(h.vms[0].socket, "vol"), rw: "randwrite", block: 4096, sizes: "4k-64k", depth: 16, size: rpoVolume, bytes: rpoRate, run: b.seconds}
	done, ended := context.WithCancel(ctx)
	var m measured
	var err error
	go func() {
		defer ended()
		m, err = fio(ctx, l)
	}()
	var samples []float64
	var bad error
	began := time.Now()
	everyTick(done, rpoPace, func() {
		rpo, berr := h.hub.rpoOf(ctx, h.vms[0].vm())
		if berr != nil {
			bad = berr
		} else if time.Since(began) > time.Second {
			samples = append(samples, rpo)
		}
	})
	if err == nil {
		err = bad
	}
	if err == nil && m.bytes < 0.9*rpoRate {
		err = fmt.Errorf("the load wrote %.3g bytes per second only", m.bytes)
	}
	if err == nil && len(samples) < 100 {
		err = fmt.Errorf("only %d samples", len(samples))
	}
	return samples, err
}

// rpoOf is a group's RPO in seconds; one that is not protected has none.
func (h *hub) rpoOf(ctx context.Context, group string) (float64, error) {
	g, err := h.group(ctx, group)
	if err == nil && (g.State != api.StateProtected || g.RPOSeconds == nil) {
		err = fmt.Errorf("the group is not protected: %+v", g)
	}
	if err != nil {
		return 0, err
	}
	return *g.RPOSeconds, nil
}
