package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/qmp"
)

// mirrorGranularity in bytes: with write-blocking, guest writes within one
// chunk of this size wait for each other, which makes sequential writes six
// times slower at QEMU's default of 64 KiB on a disk that takes 1 ms. It costs
// about 64 MiB of QEMU's memory per TiB of volume. See docs/qemu.md.
const mirrorGranularity = 4 << 10

// openTimeout in seconds bounds how long a tap server that accepts and stays
// silent can hold QEMU's main loop, and with it the guest.
const openTimeout = 1

// Attach implements vm.Taps.
func (v *VM) Attach(ctx context.Context, a vm.Attach) ([]vm.Tap, error) {
	select {
	case v.attaching <- struct{}{}:
		defer func() { <-v.attaching }()
	case <-ctx.Done():
		return nil, fmt.Errorf("attach: wait for another attach: %w", ctx.Err())
	}
	if err := v.settlePause(ctx); err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	plan, err := v.planAttach(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	for _, s := range plan.sockets() {
		network, address, err := qmp.ParseAddress(s)
		if err != nil {
			return nil, fmt.Errorf("attach: %w", err)
		}
		if err := probe(ctx, network, address); err != nil {
			return nil, fmt.Errorf("attach: probe the tap server: %w", err)
		}
	}
	v.jobs.forget(plan.taps)
	if plan.pause {
		resume, err := v.pause(ctx)
		if err != nil {
			return nil, fmt.Errorf("attach: pause the VM: %w", err)
		}
		defer func() {
			// The taps stand or fall on their own; settlePause comes back to this.
			if err := resume(); err != nil {
				v.cfg.Logger.Error("let the VM go on after an attach", "vm", v.id.Name, "err", err)
			}
		}()
	}
	if err := v.carryOut(ctx, plan); err != nil {
		return nil, errors.Join(fmt.Errorf("attach: %w", err), v.takeBack(ctx, plan))
	}
	return plan.taps, nil
}

// attachPlan is an Attach that has been checked; taps belong to
// Attach.Volumes one by one.
type attachPlan struct {
	vm.Attach
	taps       []vm.Tap
	persistent []string // nodes whose bitmap is to be so
	pause      bool
}

func (p *attachPlan) bitmaps() []vm.BitmapRef {
	if p.Bitmap == "" {
		return nil
	}
	refs := make([]vm.BitmapRef, 0, len(p.Volumes))
	for _, w := range p.Volumes {
		refs = append(refs, vm.BitmapRef{Node: w.Node, Name: p.Bitmap})
	}
	return refs
}

func (p *attachPlan) sockets() []string {
	var out []string
	seen := make(map[string]bool)
	for _, w := range p.Volumes {
		if !seen[w.Socket] {
			seen[w.Socket] = true
			out = append(out, w.Socket)
		}
	}
	return out
}

// planAttach refuses what cannot go well before anything is done.
func (v *VM) planAttach(ctx context.Context, a vm.Attach) (*attachPlan, error) {
	if err := a.Group.Validate(); err != nil {
		return nil, err
	}
	if _, _, ok := a.Bitmap.Parse(); a.Bitmap != "" && !ok {
		return nil, fmt.Errorf("bitmap %q: not a name of ours", a.Bitmap)
	}
	volumes, err := v.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	byNode := make(map[string]vm.Volume, len(volumes))
	for _, vol := range volumes {
		byNode[vol.Node] = vol
	}
	taken, err := v.ListTaps(ctx, a.Group)
	if err != nil {
		return nil, err
	}
	plan := &attachPlan{Attach: a}
	for _, w := range a.Volumes {
		vol, ok := byNode[w.Node]
		switch {
		case !ok:
			return nil, fmt.Errorf("%w: %q", vm.ErrNoVolume, w.Node)
		case vol.Tapped:
			return nil, fmt.Errorf("volume %s has a tap already: %w", w.Node, vm.ErrBusy)
		case a.PersistentBitmap && vol.PersistentBitmaps:
			plan.persistent = append(plan.persistent, w.Node)
		}
		id := cmp.Or(w.ID, vm.NewID())
		if err := vm.ValidateID(id); err != nil {
			return nil, err
		}
		tap := tapOf(a.Group, id, w.Node)
		if slices.ContainsFunc(taken, func(t vm.Tap) bool { return t.Job == tap.Job }) {
			return nil, fmt.Errorf("tap %s is there already: %w", tap.Job, vm.ErrBusy)
		}
		plan.taps = append(plan.taps, tap)
		plan.pause = plan.pause || vol.IOThread != "" && v.traits.pauseForIOThread
	}
	return plan, nil
}

func tapOf(g vm.GroupTag, id, volume string) vm.Tap {
	return vm.Tap{
		Volume: volume,
		Job:    vm.Name(vm.KindJob, g, id),
		Filter: vm.Name(vm.KindFilter, g, id),
		Node:   vm.Name(vm.KindTap, g, id),
	}
}

// carryOut makes the bitmaps of all volumes at one moment, then every tap's
// node, then the mirrors: a tap server that refuses is met before any mirror
// runs.
func (v *VM) carryOut(ctx context.Context, p *attachPlan) error {
	if refs := p.bitmaps(); len(refs) > 0 {
		err := v.SwitchBitmaps(ctx, vm.BitmapSwitch{Add: refs, Granularity: p.BitmapGranularity, Persistent: p.persistent})
		if err != nil {
			if qemuSays(err, "") {
				p.Bitmap = "" // QEMU made none; what has the name is not ours to remove
			}
			return err
		}
	}
	for i, w := range p.Volumes {
		if err := v.addTapNode(ctx, p.taps[i], w); err != nil {
			return fmt.Errorf("connect volume %s to its tap: %w", w.Node, err)
		}
	}
	for _, t := range p.taps {
		if err := v.startMirror(ctx, t); err != nil {
			return fmt.Errorf("mirror volume %s: %w", t.Volume, err)
		}
	}
	if err := v.awaitReady(ctx, p.taps); err != nil {
		return fmt.Errorf("start mirrors: %w", err)
	}
	return nil
}

func (v *VM) addTapNode(ctx context.Context, t vm.Tap, w vm.AttachVolume) error {
	server, err := serverOf(w.Socket)
	if err != nil {
		return err
	}
	a := args{
		"driver":          "nbd",
		"node-name":       t.Node,
		"server":          server,
		"export":          w.Export,
		"reconnect-delay": 0,
	}
	if v.traits.openTimeout {
		a["open-timeout"] = openTimeout
	}
	return v.do(ctx, "blockdev-add", a, nil)
}

// serverOf is a tap server's address in QEMU's words.
func serverOf(socket string) (args, error) {
	network, address, err := qmp.ParseAddress(socket) // the same two forms
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		return args{"type": "unix", "path": address}, nil
	}
	host, port, err := net.SplitHostPort(address)
	return args{"type": "inet", "host": host, "port": port}, err
}

func (v *VM) startMirror(ctx context.Context, t vm.Tap) error {
	err := v.do(ctx, "blockdev-mirror", args{
		"device":           t.Volume,
		"target":           t.Node,
		"job-id":           t.Job,
		"filter-node-name": t.Filter,
		"sync":             "none",
		"copy-mode":        "write-blocking",
		"on-target-error":  "report",
		"granularity":      mirrorGranularity,
	}, nil)
	if qemuSays(err, "busy") || qemuSays(err, "in use") || qemuSays(err, "Need a root block node") {
		err = vm.WithHint(fmt.Errorf("%w: %w", vm.ErrBusy, err), "wait for the volume's block job (backup, snapshot, commit) to end")
	}
	return err
}

// awaitReady waits until every mirror copies what is written.
func (v *VM) awaitReady(ctx context.Context, taps []vm.Tap) error {
	return v.poll(ctx, func() (bool, error) {
		jobs, err := v.ourJobs(ctx)
		if err != nil {
			return false, err
		}
		ready := true
		for _, t := range taps {
			if err := v.whole(t, jobs); err != nil {
				return false, err
			}
			ready = ready && jobs[t.Job].Ready
		}
		return ready, nil
	})
}

// takeBack undoes a plan that failed half way. The caller's context may have
// ended: a late reply of QEMU can then still add to what there is, but QEMU
// executes in order, so what is asked from here on sees it.
func (v *VM) takeBack(ctx context.Context, p *attachPlan) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), v.cfg.RollbackTimeout)
	defer cancel()
	if err := v.Detach(ctx, p.taps); err != nil {
		return fmt.Errorf("take the attach back: %w", err)
	}
	if err := v.RemoveBitmaps(ctx, p.bitmaps()); err != nil {
		return fmt.Errorf("take the attach back: %w", err)
	}
	return nil
}

// pollInterval is how long a missed event can delay an answer.
const pollInterval = 100 * time.Millisecond

// poll calls check at once, after every event and now and then, until it is
// done or fails.
func (v *VM) poll(ctx context.Context, check func() (bool, error)) error {
	events := v.mon.Subscribe(1)
	defer events.Close()
	for {
		done, err := check()
		if done || err != nil {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, pollInterval)
		_, err = events.Next(wait)
		cancel()
		if err := ctx.Err(); err != nil {
			return err
		}
		if err != nil && v.Err() != nil {
			return v.Err()
		}
	}
}
