package badinput

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

const (
	idleVolumes   = 32
	idlePerVolume = 2 << 20 // bytes
)

// resident is what hub and keeper have in memory, in bytes; shared pages are
// counted in parts.
func resident(t *testing.T, h *rig.Hub) (sum int64, of string) {
	t.Helper()
	for _, pid := range h.Processes() {
		cmd, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "cmdline"))
		if err != nil {
			continue // it has just ended
		}
		role := string(bytes.Split(cmd, []byte{0})[1])
		if role != "hub" && role != "keeper" {
			continue
		}
		data, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "smaps_rollup"))
		if err != nil {
			t.Fatal(err)
		}
		for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
			var kib int64
			if _, err := fmt.Sscanf(s.Text(), "Pss: %d kB", &kib); err == nil {
				sum += kib << 10
				of += fmt.Sprintf("%s %.1f MiB ", role, float64(kib)/1024)
			}
		}
	}
	if !strings.Contains(of, "hub") || !strings.Contains(of, "keeper") {
		t.Fatalf("found only %q", of)
	}
	return sum, of
}

// A volume that nobody writes to costs little: each is a group of its own here,
// with a ring, a journal and fences of its own.
func TestMemoryOfIdleVolumes(t *testing.T) {
	h := rig.NewHub(t)
	var disks []vmtest.Disk
	for range idleVolumes + 1 {
		disks = append(disks, vmtest.Disk{Size: 8 << 20})
	}
	q := vmtest.Start(t, vmtest.Config{Disks: disks})
	h.Must("vm", "add", "vm", "--qmp", qmpPath(q), "--nbd-server", q.NBDServer)
	one := func(i int) {
		name := fmt.Sprintf("g%d", i)
		h.Must("protect", "vm", "--volume", fmt.Sprintf("disk%d", i), "--group", name, "--wait")
		h.WaitState(name, api.StateProtected)
	}
	one(0) // which also brings the keeper
	before, of := resident(t, h)
	t.Logf("with one volume: %s", of)
	for i := 1; i <= idleVolumes; i++ {
		one(i)
	}
	// What the protecting took is given back in time; what stays is asked for.
	// The collector runs every two minutes without being asked, so this is a
	// bound that holds at every moment rather than a wait for the least.
	var per int64
	h.Eventually("idle volumes cost little memory", time.Minute, func() error {
		var now int64
		now, of = resident(t, h)
		if per = (now - before) / idleVolumes; per > idlePerVolume {
			return fmt.Errorf("%.2f MiB for each volume: %s", float64(per)/(1<<20), of)
		}
		return nil
	})
	t.Logf("%.2f MiB for each of %d more volumes: %s", float64(per)/(1<<20), idleVolumes, of)
}
