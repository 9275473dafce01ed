package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/vm/vmtest"
	"github.com/rephub/rephub/nbd"
)

// vmOnMount is a QEMU whose disks are the volumes of a mount, as a recovered VM
// has them.
func vmOnMount(t *testing.T, volumes []string) (*vmtest.QEMU, []string) {
	t.Helper()
	var args []string
	for i, uri := range volumes {
		u, err := nbd.ParseURI(uri)
		if err != nil {
			t.Fatal(err)
		}
		node, err := json.Marshal(map[string]any{"driver": "nbd", "node-name": fmt.Sprintf("mounted%d", i), "export": u.Export,
			"server": map[string]any{"type": "unix", "path": u.Socket}, "reconnect-delay": 30})
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, "-blockdev", string(node))
	}
	q := vmtest.Start(t, vmtest.Config{Name: "recovered", Args: args})
	var guests []string
	for i := range volumes {
		node := fmt.Sprintf("mounted%d", i)
		q.Must("block-export-add", map[string]any{"type": "nbd", "id": "guest-" + node, "node-name": node, "name": node, "writable": true}, nil)
		guests = append(guests, q.GuestURI(node))
	}
	return q, guests
}

// A VM that runs from a writable mount goes on writing while the hub is killed
// again and again: nothing fails, and nothing that was written is lost.
func TestVMOnAMountOutlivesTheHub(t *testing.T) {
	h, q, load := protected(t)
	moreWrites(t, h, load, 500)
	m := h.Mount("vm", fmt.Sprintf("seq:%d", h.WaitDurable("vm")), "--writable")
	volumes := uris(t, m, q.Nodes())
	tops, err := rig.VerifyChains(context.Background(), chains, volumes...)
	if err != nil {
		t.Fatal(err)
	}
	recovered, guests := vmOnMount(t, volumes)
	second, err := rig.ContinueChains(tops, guests...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = second.Stop() })

	for round := range 5 {
		moreWrites(t, h, second, 300)
		before := second.Writes()
		h.Kill()
		moreWrites(t, h, load, 300) // the protected VM goes on meanwhile
		h.Start()
		h.Eventually("the recovered VM writes again", 30*time.Second, func() error {
			if err := second.Err(); err != nil {
				t.Fatalf("round %d: the recovered VM met an I/O error: %v", round, err)
			}
			if second.Writes() < before+300 {
				return fmt.Errorf("%d writes", second.Writes()-before)
			}
			return nil
		})
	}
	if err := second.Stop(); err != nil {
		t.Fatalf("the recovered VM met an I/O error: %v", err)
	}
	if !recovered.Alive() {
		t.Fatal("the recovered VM is dead")
	}
	same(t, guests, volumes)
	last, err := rig.VerifyChains(context.Background(), chains, volumes...)
	if err != nil {
		t.Fatal(err)
	}
	for i := range last {
		if last[i] <= tops[i] {
			t.Errorf("chain %d was at %d and is at %d", i, tops[i], last[i])
		}
	}
	recovered.Quit()
	h.Must("unmount", m.ID)
	// The point itself is as it was.
	_, again := verify(t, h, q, fmt.Sprintf("seq:%d", m.Seq))
	if fmt.Sprint(again) != fmt.Sprint(tops) {
		t.Errorf("seq %d read %v before a VM ran from it and %v after", m.Seq, tops, again)
	}
}

// same checks that volumes read alike by two ways.
func same(t *testing.T, a, b []string) {
	t.Helper()
	for i := range a {
		if !bytes.Equal(content(t, a[i]), content(t, b[i])) {
			t.Errorf("%s and %s differ", a[i], b[i])
		}
	}
}

func content(t *testing.T, uri string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := nbd.Dial(ctx, uri, nbd.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := make([]byte, rig.ChainBytes(chains))
	if err := c.ReadAt(ctx, p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}
