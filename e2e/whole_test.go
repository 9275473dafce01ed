// Package e2e tests rephub from outside: real QEMUs, a real hub, the real
// command line.
package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// chains is how many writers run at once: the depth of the load.
const chains = 4

// protected is a QEMU with three disks under load, protected as group "vm".
func protected(t *testing.T) (*rig.Hub, *vmtest.QEMU, *rig.Chains) {
	t.Helper()
	h := rig.NewHub(t)
	q := vmtest.Start(t, vmtest.Config{Disks: []vmtest.Disk{{}, {}, {}}})
	var uris []string
	for _, node := range q.Nodes() {
		uris = append(uris, q.GuestURI(node))
	}
	load, err := rig.StartChains(chains, uris...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := load.Stop(); err != nil && q.Alive() {
			t.Errorf("the load met an I/O error: %v", err)
		}
	})
	h.Protect("vm", strings.TrimPrefix(q.QMP, "unix:"), q.NBDServer)
	return h, q, load
}

// moreWrites waits until the load has done n more.
func moreWrites(t *testing.T, h *rig.Hub, load *rig.Chains, n uint64) {
	t.Helper()
	want := load.Writes() + n
	h.Eventually(fmt.Sprintf("%d more writes", n), time.Minute, func() error {
		if err := load.Err(); err != nil {
			t.Fatal(err)
		}
		if got := load.Writes(); got < want {
			return fmt.Errorf("%d of %d", got, want)
		}
		return nil
	})
}

// uris are the mounted volumes in the order of the disks.
func uris(t *testing.T, m api.Mount, nodes []string) []string {
	t.Helper()
	var list []string
	for _, node := range nodes {
		for _, v := range m.Volumes {
			if v.Name == "vm/"+node {
				list = append(list, v.URI)
			}
		}
	}
	if len(list) != len(nodes) {
		t.Fatalf("mount %+v lacks volumes of %v", m, nodes)
	}
	return list
}

// verify mounts a point and checks that the three disks are of one moment.
func verify(t *testing.T, h *rig.Hub, q *vmtest.QEMU, at string) (api.Mount, []uint64) {
	t.Helper()
	m := h.Mount("vm", at)
	tops, err := rig.VerifyChains(context.Background(), chains, uris(t, m, q.Nodes())...)
	if err != nil {
		t.Fatalf("point %s (seq %d): %v", at, m.Seq, err)
	}
	return m, tops
}

func TestEveryPointIsOneMomentOfThreeDisks(t *testing.T) {
	h, q, load := protected(t)
	first := h.Group("vm").FirstSeq
	moreWrites(t, h, load, 3000)
	last := h.WaitDurable("vm")
	for _, at := range []uint64{first, first + (last-first)/3, first + (last-first)/2, last - 1, last} {
		m, _ := verify(t, h, q, fmt.Sprintf("seq:%d", at))
		if m.Seq != at {
			t.Errorf("asked for seq %d, got %d", at, m.Seq)
		}
		h.Must("unmount", m.ID)
	}
}

func TestKilledHubComesBackToWhatItPromised(t *testing.T) {
	h, q, load := protected(t)
	moreWrites(t, h, load, 1000)
	promised := h.WaitDurable("vm")
	m, before := verify(t, h, q, fmt.Sprintf("seq:%d", promised))

	h.Kill()
	moreWrites(t, h, load, 1000) // the VM does not notice
	h.Start()

	after, err := rig.VerifyChains(context.Background(), chains, uris(t, m, q.Nodes())...)
	if err != nil {
		t.Fatalf("the mount that was there before: %v", err)
	}
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("seq %d read %v before the kill and %v after", promised, before, after)
	}
	h.Must("unmount", m.ID)
	h.WaitState("vm", api.StateProtected)
	moreWrites(t, h, load, 500)
	h.WaitDurable("vm")
	verify(t, h, q, "latest")
	if err := load.Err(); err != nil {
		t.Errorf("the load met an I/O error: %v", err)
	}
}

// After a disaster there is no VM left to take the taps away from.
func TestUnprotectWhenTheVMIsGone(t *testing.T) {
	h, q, load := protected(t)
	moreWrites(t, h, load, 200)
	q.Kill()
	h.WaitState("vm", api.StateDegraded)
	h.Must("unprotect", "vm")
	var s api.Status
	if h.JSON(&s, "status"); len(s.Groups) != 0 {
		t.Errorf("status still shows %+v", s.Groups)
	}
}
