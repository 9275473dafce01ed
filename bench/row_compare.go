package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/rephub/rephub/internal/api"
)

// compareVolume in bytes, all of it data.
const compareVolume = 4 << 30

// compareRow compares the sync after a QEMU was killed with reading the volume
// over the same export.
func compareRow(ctx context.Context, b *bench) error {
	dir := filepath.Join(b.dir, "compare")
	defer os.RemoveAll(dir)
	full := func(_ int, dir string) ([]disk, error) {
		d := disk{node: "vol", file: filepath.Join(dir, "vol.raw")}
		return []disk{d}, fillFile(d.file, compareVolume)
	}
	h, err := newHost(ctx, dir, 1, full, nil)
	if err != nil {
		return err
	}
	defer h.end()
	if err := h.protect(ctx); err != nil {
		return err
	}
	speed := func(d time.Duration) float64 { return compareVolume / d.Seconds() / (1 << 20) }
	again := func() (time.Duration, error) {
		vmDir := filepath.Dir(h.vms[0].qmp)
		_ = h.vms[0].cmd.Process.Kill()
		<-h.vms[0].exited
		_ = os.Remove(h.vms[0].qmp)
		_ = os.Remove(h.vms[0].socket)
		if err := h.hub.until(ctx, time.Minute, "see that the VM is gone", func() bool {
			g, err := h.hub.group(ctx, h.vms[0].vm())
			return err == nil && g.State != api.StateProtected
		}); err != nil {
			return 0, err
		}
		e, err := startQEMU(ctx, vmDir, []disk{{"vol", filepath.Join(vmDir, "vol.raw")}})
		if err != nil {
			return 0, err
		}
		h.vms[0] = e
		return h.compared(ctx)
	}
	if _, err := again(); err != nil { // the hub makes its hashes
		return err
	}
	ours, peer, err := b.inTurns(
		func() (float64, error) {
			took, err := again()
			return speed(took), err
		},
		func() (float64, error) {
			began := time.Now()
			out, err := exec.CommandContext(ctx, "nbdcopy", unixURI(h.vms[0].socket, "vol"), "null:").CombinedOutput()
			if err != nil {
				return 0, fmt.Errorf("nbdcopy: %w: %s", err, out)
			}
			return speed(time.Since(began)), nil
		})
	if err != nil {
		return err
	}
	b.add(result{Name: "compare", What: whatOf("compare"), Unit: "MiB/s", Ours: ours, Peer: peer, PeerIs: "nbdcopy to null:", Target: 0.8, AtLeast: true,
		Note: "from the moment at which the sync is seen to run until it is not any more"})
	return nil
}

// compared is how long the sync of the first VM's group takes.
func (h *host) compared(ctx context.Context) (time.Duration, error) {
	var began, ended time.Time
	err := h.hub.until(ctx, 2*time.Minute, "compare", func() bool {
		g, err := h.hub.group(ctx, h.vms[0].vm())
		if err != nil {
			return false
		}
		if began.IsZero() && g.State == api.StateSyncing {
			began = time.Now()
		}
		if g.State == api.StateProtected {
			ended = time.Now()
		}
		return !ended.IsZero()
	})
	if err == nil && began.IsZero() {
		err = fmt.Errorf("the sync was over before it was seen")
	}
	return ended.Sub(began), err
}
