package circle

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/vm/qemu"
)

// A hub that is killed at whatever moment of a failover, a rollback or a commit has done it or not done it when it is back: the VM runs in one place.
func TestKilledAtAnyMoment(t *testing.T) {
	dir, err := os.MkdirTemp("", "home")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	hub := rig.NewHub(t)
	endVMs(t, hub)
	monitor, image := filepath.Join(dir, "web.qmp"), filepath.Join(dir, "a.raw")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "raw", image, "32M").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	source := exec.Command("qemu-system-x86_64", "-machine", "q35", "-m", "64", "-nodefaults", "-display", "none",
		"-blockdev", "raw,node-name=a,file.driver=file,file.filename="+image, "-device", "virtio-blk-pci,drive=a",
		"-qmp", "unix:"+monitor+",server=on,wait=off", "-qmp", "unix:"+filepath.Join(dir, "own")+",server=on,wait=off")
	if err := (*rig.Namespace)(nil).Start(source); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = source.Wait(); close(exited) }()
	t.Cleanup(func() { _ = source.Process.Kill(); <-exited })
	own := filepath.Join(dir, "own")
	hub.Eventually("the VM is there", time.Minute, func() error { _, err := os.Stat(own); return err })
	hub.Must("vm", "add", "web", "--qmp", monitor)
	hub.Must("protect", "web", "--wait")

	rng := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	deadline := time.Now().Add(rig.Budget(10 * time.Second))
	for round := 0; round < 4 || time.Now().Before(deadline); round++ {
		hub.WaitState("web", api.StateProtected)
		k := killer{t: t, hub: hub, own: own}
		if k.during(rng, 400*time.Millisecond, "failover", "start", "web") {
			k.during(rng, 300*time.Millisecond, "failover", "rollback", "web")
			if k.failedOver() {
				hub.Must("failover", "rollback", "web")
			}
		}
	}
	// In the end it is kept, whenever the hub is killed.
	hub.WaitState("web", api.StateProtected)
	hub.Must("failover", "start", "web")
	k := killer{t: t, hub: hub, own: own}
	for range 3 {
		_, err := hub.CLI("failover", "commit", "web")
		if err != nil && !strings.Contains(err.Error(), "is committed already") {
			t.Fatal(err)
		}
		k.kill(rng, 400*time.Millisecond)
	}
	hub.WaitState("web", api.StateProtected)
	if f := failoverOf(t, hub, "failover"); f.State != "committed" || !f.VMs[0].Running || len(f.VMs[0].Files) != 1 {
		t.Errorf("%+v", f)
	}
	select {
	case <-exited: // it was held, and ended with the commit
	case <-time.After(30 * time.Second):
		t.Error("the VM is still there where it was")
	}
}

type killer struct {
	t   *testing.T
	hub *rig.Hub
	own string // monitor of the source
}

// kill kills the hub after some time and starts it again.
func (k *killer) kill(rng *rand.Rand, most time.Duration) {
	k.t.Helper()
	after := time.NewTimer(time.Duration(rng.Int64N(int64(most))))
	<-after.C
	k.hub.Kill()
	k.hub.Start()
}

// during kills the hub while it does something, and tells whether the group has failed over when it is back.
func (k *killer) during(rng *rand.Rand, most time.Duration, args ...string) bool {
	k.t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := k.hub.CLI(args...)
		done <- err
	}()
	k.kill(rng, most)
	<-done
	return k.failedOver()
}

// failedOver waits until what was interrupted is undone or done, and checks that the VM runs in one place.
func (k *killer) failedOver() (over bool) {
	k.t.Helper()
	k.hub.Eventually("the VM runs in one place", time.Minute, func() error {
		var l api.Failovers
		k.hub.JSON(&l, "failover", "list")
		g := k.hub.Group("web")
		state, err := k.runState()
		if err != nil {
			return err
		}
		over = g.State == api.StateFailedOver
		switch {
		case over && len(l.Failovers) == 1 && l.Failovers[0].State == "running" && l.Failovers[0].VMs[0].Running && state != "running":
			return nil
		case !over && len(l.Failovers) == 0 && state == "running":
			return nil
		}
		return fmt.Errorf("the group is %s, the VM that it has is %s, the failovers are %+v", g.State, state, l.Failovers)
	})
	return over
}

func (k *killer) runState() (string, error) {
	v, err := qemu.Open(k.t.Context(), "unix:"+k.own, qemu.Config{})
	if err != nil {
		return "", err
	}
	defer v.Close()
	s, err := v.RunState(k.t.Context())
	return string(s), err
}
