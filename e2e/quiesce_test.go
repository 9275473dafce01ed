package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/nbd"
)

// quiesced protects guests as one group of a hub on their host.
func quiesced(t *testing.T, guests ...*rig.GuestVM) *rig.Hub {
	t.Helper()
	h := rig.NewHub(t)
	protect := []string{"protect"}
	for i, g := range guests {
		name := fmt.Sprintf("vm%d", i)
		h.Must("vm", "add", name, "--qmp", strings.TrimPrefix(g.QMP, "unix:"))
		protect = append(protect, name)
	}
	h.Must(append(protect, "--group", "g", "--wait")...)
	return h
}

// needsRecovery tells whether the ext4 on a mount's first volume has a journal to replay.
func needsRecovery(t *testing.T, m api.Mount) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := nbd.Dial(ctx, m.Volumes[0].URI, nbd.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	super := make([]byte, 1024)
	if err := c.ReadAt(ctx, super, 1024); err != nil {
		t.Fatal(err)
	}
	if magic := binary.LittleEndian.Uint16(super[0x38:]); magic != 0xef53 {
		t.Fatalf("no ext4: magic %#x", magic)
	}
	return binary.LittleEndian.Uint32(super[0x60:])&4 != 0 // s_feature_incompat, INCOMPAT_RECOVER
}

// fileAt reads a file of the ext4 at a checkpoint, of which it must find no fault as it is.
func fileAt(t *testing.T, h *rig.Hub, checkpoint, file string) string {
	t.Helper()
	var e api.ExportResult
	dir := t.TempDir()
	h.JSON(&e, "export", "g", "--at", "checkpoint:"+checkpoint, "--to", dir)
	if out, err := exec.Command("e2fsck", "-f", "-n", e.Files[0].Path).CombinedOutput(); err != nil {
		t.Fatalf("e2fsck: %v: %s", err, out)
	}
	out, err := exec.Command("debugfs", "-R", "cat "+file, e.Files[0].Path).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// A frozen guest has written everything out: nothing has to be replayed, and what
// its freeze hook wrote is the last thing in the checkpoint.
func TestQuiesce(t *testing.T) {
	g := rig.StartGuest(t, "vm", true)
	h := quiesced(t, g)
	g.Writes()
	var crash, app api.Checkpoint
	h.JSON(&crash, "checkpoint", "create", "g", "--name", "crash")
	if crash.Consistency != "crash" || crash.Reason != "" {
		t.Errorf("without --quiesce it is %+v", crash)
	}
	if !needsRecovery(t, h.Mount("g", "checkpoint:crash")) {
		t.Error("a file system that is being written needs no recovery: the test could not fail")
	}
	before := g.Count()
	h.JSON(&app, "checkpoint", "create", "g", "--name", "app", "--quiesce")
	if app.Consistency != "application" || app.Reason != "" {
		t.Fatalf("with --quiesce it is %+v", app)
	}
	if needsRecovery(t, h.Mount("g", "checkpoint:app")) {
		t.Error("the file system was not frozen at the checkpoint")
	}
	if hook := fileAt(t, h, "app", "hook"); hook != "freeze" {
		t.Errorf("the last that the freeze hook wrote is %q at the checkpoint", hook)
	}
	var count int
	if _, err := fmt.Sscan(fileAt(t, h, "app", "count"), &count); err != nil || count < before {
		t.Errorf("the guest had written %d durably, the checkpoint has %d: %v", before, count, err)
	}
	g.Writes() // it goes on
	if list := h.Must("checkpoint", "list", "g"); !strings.Contains(list, "application") {
		t.Errorf("the list does not tell:\n%s", list)
	}
	if hook := g.Run("busybox cat /data/hook"); hook != "thaw" {
		t.Errorf("the guest was not thawed by its agent: %q", hook)
	}
}

// Without an agent, or with one that hangs, there is a checkpoint all the same, and
// it says what it is.
func TestQuiesceFallsBack(t *testing.T) {
	g := rig.StartGuest(t, "vm", false)
	h := quiesced(t, g)
	g.Writes()
	fallback := func(name, reason string) {
		t.Helper()
		var c api.Checkpoint
		h.JSON(&c, "checkpoint", "create", "g", "--name", name, "--quiesce", "--quiesce-timeout", "2s")
		if c.Consistency != "crash" || !strings.Contains(c.Reason, reason) {
			t.Errorf("%s: %+v", name, c)
		}
		h.Mount("g", "checkpoint:"+name)
		g.Writes()
	}
	fallback("missing", "does not run in the guest")
	g.Run("agent")
	h.Eventually("the guest agent runs", time.Minute, func() error {
		var c api.Checkpoint
		if h.JSON(&c, "checkpoint", "create", "g", "--quiesce"); c.Consistency != "application" {
			return errors.New(c.Reason)
		}
		return nil
	})
	g.Run("busybox killall -STOP qemu-ga")
	fallback("hanging", "did not answer in time")
	g.Run("busybox killall -CONT qemu-ga")
	g.Writes()
	var c api.Checkpoint
	h.JSON(&c, "checkpoint", "create", "g", "--quiesce")
	if c.Consistency != "application" {
		t.Errorf("the agent goes on, and the checkpoint is %+v", c)
	}
}

// half has one guest frozen while the freeze of the other one is under way.
func half(t *testing.T, frozen, slow *rig.GuestVM, create func()) {
	t.Helper()
	slow.Run("echo >/run/hold")
	go create() // whoever waits for it is killed, or given up
	rig.Eventually(t, "a guest is frozen", time.Minute, func() error {
		if !frozen.Frozen() {
			return errors.New("its writes do not wait")
		}
		return nil
	})
}

func thawed(t *testing.T, guests ...*rig.GuestVM) {
	t.Helper()
	for _, g := range guests {
		rig.Eventually(t, "a guest is thawed", time.Minute, func() error {
			if g.Frozen() {
				return errors.New("its writes wait")
			}
			return nil
		})
		g.Writes()
	}
}

// No guest stays frozen when those are killed who have it frozen.
func TestKilledWhileFrozen(t *testing.T) {
	a, b := rig.StartGuest(t, "a", true), rig.StartGuest(t, "b", true)
	h := quiesced(t, a, b)
	a.Writes()
	create := func() { _, _ = h.CLI("checkpoint", "create", "g", "--quiesce", "--quiesce-timeout", "1m") }

	// The guest that takes too long is given up, and the other one with it.
	half(t, a, b, create)
	thawed(t, a)
	b.Run("busybox rm /run/hold")
	thawed(t, a, b)

	// The hub is killed and does not come back: the process that holds the freeze thaws.
	half(t, a, b, create)
	h.Kill()
	b.Run("busybox rm /run/hold")
	thawed(t, a, b)

	// Both are killed: the next hub thaws.
	h.Start()
	h.WaitState("g", api.StateProtected)
	half(t, a, b, create)
	h.KillAll()
	b.Run("busybox rm /run/hold")
	if !a.Frozen() {
		t.Fatal("nobody is there who could have thawed the guest: the test could not fail")
	}
	h.Start()
	thawed(t, a, b)
	h.WaitState("g", api.StateProtected)
	var c api.Checkpoint
	if h.JSON(&c, "checkpoint", "create", "g", "--quiesce"); c.Consistency != "application" {
		t.Errorf("afterwards: %+v", c)
	}
}
