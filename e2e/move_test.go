package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// A VM goes from one host to another: the group follows it, compares, and the
// points of before stay.
func TestGroupFollowsItsVM(t *testing.T) {
	const uuid = "0d0e1a5c-7f5c-4c43-9f0a-2f2f6a1f7c11"
	n := rig.NewNetwork(t)
	hub := rig.NewHubForAgents(t, n, nil)
	there, err := os.MkdirTemp("", "rig")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(there) })
	here := vmtest.Start(t, vmtest.Config{Args: []string{"-uuid", uuid}, Disks: []vmtest.Disk{{Node: "a"}, {Node: "b"}}})
	rig.NewAgent(t, hub, n, rig.AgentConfig{Name: "old", VMs: []*vmtest.QEMU{here}})
	rig.NewAgent(t, hub, n, rig.AgentConfig{Name: "new", Args: []string{
		"--qmp-glob", filepath.Join(there, "vm.sock"), "--nbd-server", "vm=unix:" + filepath.Join(there, "vm.nbd")}})
	hub.WaitVM("vm", "old")
	hub.Must("protect", "vm", "--group", "vm", "--wait")
	hub.WaitState("vm", api.StateProtected)
	here.Write("a", "write -P 1 1M 64k")
	before := hub.WaitDurable("vm")
	here.Write("b", "write -P 2 3M 4k")
	hub.WaitDurable("vm")

	here.Kill()
	os.Remove(here.QMP[len("unix:"):])
	for _, node := range here.Nodes() { // shared storage
		if err := os.Symlink(here.Image(node), filepath.Join(there, node+".img")); err != nil {
			t.Fatal(err)
		}
	}
	now := vmtest.Start(t, vmtest.Config{Dir: there, Args: []string{"-uuid", uuid}, Disks: []vmtest.Disk{{Node: "a"}, {Node: "b"}}})
	now.Write("a", "write -P 3 1M 4k") // nobody sees it
	hub.Eventually("the group has followed", time.Minute, func() error {
		if g := hub.Group("vm"); g.State != api.StateProtected || g.Agent != "new" {
			return fmt.Errorf("it is %s at %s: %s", g.State, g.Agent, g.Reason)
		}
		return nil
	})
	now.Write("b", "write -P 4 5M 4k")
	hub.WaitDurable("vm")
	m := hub.Mount("vm", "latest", "--writable")
	vmtest.IO(t, m.Volumes[0].URI, "read -P 3 1M 4k", "read -P 1 1028k 60k")
	vmtest.IO(t, m.Volumes[1].URI, "read -P 2 3M 4k", "read -P 4 5M 4k")
	hub.Must("unmount", m.ID)
	m = hub.Mount("vm", fmt.Sprintf("seq:%d", before), "--writable")
	vmtest.IO(t, m.Volumes[0].URI, "read -P 1 1M 64k")
	hub.Must("unmount", m.ID)
}
