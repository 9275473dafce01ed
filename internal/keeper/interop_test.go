package keeper

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rephub/rephub/internal/tap"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
)

// TestNBDCopy: what nbdcopy sends in its own way, in many requests at a time, sizes of its choice, zeroes and holes, is what the entries say.
func TestNBDCopy(t *testing.T) {
	c := startKeeper(t)
	cons := openRing(t, c, "g", 128<<20)
	unvoid(t, c, "g", 1, 1)
	const size = 48 << 20
	offers, err := c.Offer(testContext(t), "g", []Volume{{ID: 1, Size: size}})
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, size)
	rnd := rand.NewChaCha8([32]byte{1})
	for _, r := range [][2]int{{0, 5 << 20}, {9<<20 + 512, 777 * 512}, {40 << 20, 8 << 20}} {
		rnd.Read(want[r[0]:][:r[1]])
	}
	src := filepath.Join(shortDir(t), "src")
	if err := os.WriteFile(src, want, 0o600); err != nil {
		t.Fatal(err)
	}
	uri := "nbd+unix:///" + offers[0].Token + "?socket=" + c.TapSocket()
	cmd := exec.CommandContext(testContext(t), "nbdcopy", "--connections=1", "--request-size=1048576", "--destination-is-zero", "--flush", src, uri)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nbdcopy: %v: %s", err, out)
	}
	got := make([]byte, size)
	for _, e := range drain(t, cons) {
		if e.Op == journal.OpWrite {
			copy(got[e.Off:], e.payload)
		} else {
			clear(got[e.Off:][:e.Len])
		}
	}
	if s := cons.State(); s.Void || s.Last == 0 {
		t.Fatalf("state %+v", s)
	}
	if !bytes.Equal(got, want) {
		t.Fatal("the entries do not give the image")
	}
}

// TestFio: many small writes at depth 32, drained into a journal by another process: every one is in the journal.
func TestFio(t *testing.T) {
	c := startKeeper(t)
	dir := filepath.Join(shortDir(t), "journal")
	token, _, stop := startHub(t, c, dir)
	fio(t, fioURI(t, c, token), "4k", 32, "--number_ios=20000")
	n := stop()
	if n[0] != 20001 || n[1] != n[0] || n[3] != n[0] || n[2] != 0 {
		t.Fatalf("last %d, consumed %d, void writes %d, journaled %d; want 20001 (the attach record and 20000 writes)", n[0], n[1], n[2], n[3])
	}
}

// TestHubKilled kills a hub that drains under load. Journal and ring together hold every write that was answered, in order.
func TestHubKilled(t *testing.T) {
	c := startKeeper(t)
	dir := filepath.Join(shortDir(t), "journal")
	cfg := c.cfg
	token, hub, _ := startHub(t, c, dir)
	nc, err := dialTap(t, c, token)
	if err != nil {
		t.Fatal(err)
	}
	const writes = 3000
	for i := range writes {
		if i == writes/2 {
			hub.Kill()
		}
		write(t, nc, int64(i)*512, pattern(i))
	}
	log, err := journal.Open(vfs.OS(), dir, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	next := 0
	check := func(h journal.Header, p []byte) {
		if h.Seq != journal.Seq(next+2) || h.Off != int64(next)*512 || string(p) != pattern(next) {
			t.Fatalf("seq %d at %d: %q, want write %d", h.Seq, h.Off, p, next)
		}
		next++
	}
	if err := log.Scan(1, func(h journal.Header, payload func() ([]byte, error)) error {
		if h.Op.Data() {
			p, err := payload()
			if err != nil {
				return err
			}
			check(h, p)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if log.Appended() < writes/4 {
		t.Fatalf("the hub had journaled %d when it was killed", log.Appended())
	}
	c2 := ensure(t, cfg)
	cons := openRing(t, c2, "journal", tap.MinRing)
	for _, e := range drain(t, cons) {
		if e.Seq > log.Appended() { // appended, and killed before the release
			check(e.Header, e.payload)
		}
	}
	if s := cons.State(); s.Void || s.Losses != 0 || next != writes {
		t.Fatalf("%d of %d writes; state %+v", next, writes, s)
	}
}

// memory is what processes hold together, in bytes: shared memory is counted once.
func memory(t *testing.T, pids ...int) (total int64) {
	t.Helper()
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			var kb int64
			if n, _ := fmt.Sscanf(line, "Pss: %d kB", &kb); n == 1 {
				total += kb << 10
			}
		}
	}
	return total
}

// TestIdleMemory: volumes that were busy and are idle cost no more than 2 MiB each; the law counts hub and keeper, this test the keeper, rings included.
func TestIdleMemory(t *testing.T) {
	c := startKeeper(t)
	const groups = 8
	busy := func(g string) *tap.Consumer {
		cons := openRing(t, c, g, 64<<20)
		nc := attach(t, c, g, 1)[0]
		unvoid(t, c, g, 1, 1)
		block := make([]byte, 256<<10)
		for i := range 80 {
			if err := nc.WriteAt(testContext(t), block, int64(i)<<20, 0); err != nil {
				t.Fatal(err)
			}
		}
		return cons
	}
	first := busy("first") // what the process needs once
	drain(t, first)
	until(t, "the first ring is given back", func() bool { return statusOf(t, c).Memory == 0 })
	before := memory(t, c.PID())
	for i := range groups {
		drain(t, busy(fmt.Sprint(i)))
	}
	until(t, "the rings are given back", func() bool { return statusOf(t, c).Memory == 0 })
	until(t, "8 idle volumes hold 8 MiB", func() bool { return memory(t, c.PID())-before < groups<<20 })
	t.Logf("an idle volume: %d KiB; the keeper itself: %d KiB", (memory(t, c.PID())-before)/groups>>10, before>>10)
}

func statusOf(t *testing.T, c *Client) Status {
	t.Helper()
	st, err := c.Status(context.WithoutCancel(testContext(t)))
	if err != nil {
		t.Fatal(err)
	}
	return st
}
