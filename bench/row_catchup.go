package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	catchupBytes = 1 << 30  // that wait in the spool
	gigabit      = 125e6    // bytes per second
	catchupNet   = "rephub" // prefix of names
)

// catchupRow fills a spool while the link is down, and measures how fast the hub
// gets it once it is up. The link is a pair of interfaces shaped to 1 Gbit/s, and
// the hub has a network of its own.
func catchupRow(ctx context.Context, b *bench) error {
	dir := filepath.Join(b.dir, "catchup")
	defer os.RemoveAll(dir)
	n, err := newShaped(ctx)
	if err != nil {
		return err
	}
	defer n.remove()
	h := &host{dir: dir}
	defer h.end()
	if h.hub, err = startHubIn(ctx, filepath.Join(dir, "hub"), n.name, "--agents", n.hub); err != nil {
		return err
	}
	vmDir := filepath.Join(dir, "vm0")
	if err := os.MkdirAll(vmDir, 0o755); err != nil {
		return err
	}
	disks, err := oneDisk(2*catchupBytes)(0, vmDir)
	if err != nil {
		return err
	}
	e, err := startQEMU(ctx, vmDir, disks)
	if err != nil {
		return err
	}
	h.vms = append(h.vms, e)
	if h.agent, err = startAgent(ctx, filepath.Join(dir, "agent"), h.hub, n.hub, e); err != nil {
		return err
	}
	if err := h.protect(ctx); err != nil {
		return err
	}
	var rates []float64
	for range b.runs {
		rate, err := catchUp(ctx, h, n)
		if err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "  %.4g MB/s\n", rate)
		rates = append(rates, rate)
	}
	b.add(result{Name: "catchup", What: whatOf("catchup"), Unit: "of 1 Gbit/s", Ours: scaled(rates, 1e6/gigabit), Target: 0.8, AtLeast: true,
		Note: fmt.Sprintf("of the VM's writes, without what carries them: %.4g MB/s", median(rates))})
	return nil
}

func scaled(v []float64, by float64) []float64 {
	out := make([]float64, len(v))
	for i, x := range v {
		out[i] = x * by
	}
	return out
}

func catchUp(ctx context.Context, h *host, n *shaped) (mbPerSecond float64, err error) {
	vm := h.vms[0].vm()
	if err := h.hub.durable(ctx, vm); err != nil {
		return 0, err
	}
	before, err := h.hub.group(ctx, vm)
	if err != nil {
		return 0, err
	}
	if err := n.ip(ctx, "link", "set", n.name, "down"); err != nil {
		return 0, err
	}
	m, err := fio(ctx, load{uri: unixURI(h.vms[0].socket, "vol"), rw: "randwrite", block: 64 << 10, depth: 8, size: 2 * catchupBytes,
		count: catchupBytes / (64 << 10), bytes: 150 << 20, fresh: true})
	if err != nil {
		return 0, err
	}
	if err := n.ip(ctx, "link", "set", n.name, "up"); err != nil {
		return 0, err
	}
	want := before.LastSeq + uint64(m.total/(64<<10))
	var began, ended time.Time
	var from, to uint64
	err = h.hub.until(ctx, 3*time.Minute, "catch up", func() bool {
		g, err := h.hub.group(ctx, vm)
		if err != nil {
			return false
		}
		// From the first tenth on: how soon the agent dials is another figure.
		if began.IsZero() && g.DurableSeq > before.LastSeq+(want-before.LastSeq)/10 {
			began, from = time.Now(), g.DurableSeq
		}
		ended, to = time.Now(), g.DurableSeq
		return g.DurableSeq >= want
	})
	if err != nil {
		return 0, err
	}
	return float64(to-from) * (64 << 10) / ended.Sub(began).Seconds() / 1e6, nil
}

// shaped is a network namespace whose link to ours has 1 Gbit/s.
type shaped struct {
	name string // of the namespace, and of our end
	hub  string // where a hub in it listens for agents
}

func newShaped(ctx context.Context) (*shaped, error) {
	n := &shaped{name: fmt.Sprintf("%s%d", catchupNet, os.Getpid()%100000), hub: "10.78.0.2:7711"}
	for _, args := range [][]string{
		{"netns", "add", n.name},
		{"link", "add", n.name, "type", "veth", "peer", "name", "net", "netns", n.name},
		{"addr", "add", "10.78.0.1/24", "dev", n.name},
		{"link", "set", n.name, "up"},
		{"-n", n.name, "addr", "add", "10.78.0.2/24", "dev", "net"},
		{"-n", n.name, "link", "set", "net", "up"},
		{"-n", n.name, "link", "set", "lo", "up"},
	} {
		if err := n.ip(ctx, args...); err != nil {
			n.remove()
			return nil, err
		}
	}
	tbf := []string{"qdisc", "add", "dev", n.name, "root", "tbf", "rate", "1gbit", "burst", "256k", "latency", "50ms"}
	if out, err := exec.CommandContext(ctx, "tc", tbf...).CombinedOutput(); err != nil {
		n.remove()
		return nil, fmt.Errorf("tc %s: %w: %s", strings.Join(tbf, " "), err, out)
	}
	return n, nil
}

func (n *shaped) ip(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (n *shaped) remove() {
	_ = n.ip(context.Background(), "link", "del", n.name)
	_ = n.ip(context.Background(), "netns", "del", n.name)
}
