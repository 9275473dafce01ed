package rig

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/api"
)

// Eventually is the package's, with the hub's test.
func (h *Hub) Eventually(what string, limit time.Duration, check func() error) {
	h.t.Helper()
	Eventually(h.t, what, limit, check)
}

// Eventually asks again and again until check has no objection, and fails the
// test with the last one after limit.
func Eventually(t testing.TB, what string, limit time.Duration, check func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s: %s: %v", limit, what, err)
		}
		<-tick.C
	}
}

// Group is the status of one group.
func (h *Hub) Group(name string) api.GroupStatus {
	h.t.Helper()
	var s api.Status
	h.JSON(&s, "status", name)
	if len(s.Groups) != 1 || s.Groups[0].Name != name {
		h.t.Fatalf("status %s shows %+v", name, s.Groups)
	}
	return s.Groups[0]
}

// WaitState waits until a group is in a state.
func (h *Hub) WaitState(name string, state api.State) api.GroupStatus {
	h.t.Helper()
	var g api.GroupStatus
	h.Eventually(fmt.Sprintf("group %s is %s", name, state), time.Minute, func() error {
		if g = h.Group(name); g.State != state {
			return fmt.Errorf("it is %s: %s", g.State, g.Reason)
		}
		return nil
	})
	return g
}

// WaitVM waits until the hub can reach a VM through an agent, and knows no other.
func (h *Hub) WaitVM(name, agent string) {
	h.t.Helper()
	h.Eventually("VM "+name+" is reached through agent "+agent, time.Minute, func() error {
		var l api.VMs
		h.JSON(&l, "vm", "list")
		if len(l.VMs) != 1 || l.VMs[0].Name != name || !l.VMs[0].Reachable || l.VMs[0].Agent != agent {
			return fmt.Errorf("the hub's VMs are %+v", l.VMs)
		}
		return nil
	})
}

// WaitDurable waits until everything that the tap had assigned by now is a
// point, and returns the newest point.
func (h *Hub) WaitDurable(name string) uint64 {
	h.t.Helper()
	want := h.Group(name).LastSeq
	var got uint64
	h.Eventually(fmt.Sprintf("seq %d of group %s is a point", want, name), time.Minute, func() error {
		if got = h.Group(name).DurableSeq; got < want {
			return fmt.Errorf("the newest point is %d", got)
		}
		return nil
	})
	return got
}

// Protect adds a VM and protects it as a group of the same name.
func (h *Hub) Protect(name, qmp, nbdServer string, args ...string) api.GroupStatus {
	h.t.Helper()
	add := []string{"vm", "add", name, "--qmp", qmp}
	if nbdServer != "" {
		add = append(add, "--nbd-server", nbdServer)
	}
	h.Must(add...)
	h.Must(append([]string{"protect", name, "--group", name, "--wait"}, args...)...)
	return h.WaitState(name, api.StateProtected)
}

// Mount opens a group at a point; it is unmounted with the test.
func (h *Hub) Mount(group, at string, args ...string) api.Mount {
	h.t.Helper()
	var m api.Mount
	h.JSON(&m, append([]string{"mount", group, "--at", at}, args...)...)
	return m
}

// Budget is how long a random test runs: REPHUB_SOAK (as "make soak" sets it; 1
// is half an hour) or a short default.
func Budget(def time.Duration) time.Duration {
	if os.Getenv("REPHUB_SOAK") == "1" {
		return 30 * time.Minute
	}
	if d, err := time.ParseDuration(os.Getenv("REPHUB_SOAK")); err == nil {
		return d
	}
	return def
}
