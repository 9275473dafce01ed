package protect

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/rephub/rephub/internal/vm/vmtest"
)

// scribble writes into the ring that this process, as a hub, has mapped.
func scribble(t *testing.T, off int64, p []byte) {
	t.Helper()
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	mem, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	found := 0
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from int64
		if !strings.Contains(lines.Text(), "memfd:rephub-ring") {
			continue
		}
		if _, err := fmt.Sscanf(lines.Text(), "%x-", &from); err != nil {
			t.Fatal(err)
		}
		if _, err := mem.WriteAt(p, from+off); err != nil {
			t.Fatal(err)
		}
		found++
	}
	if found != 1 {
		t.Fatalf("%d rings are mapped", found)
	}
}

// A ring with nonsense in it is given up for a new one under the same taps, and all
// is compared.
func TestCorruptRingIsRenewed(t *testing.T) {
	for name, damage := range map[string]struct {
		off int64
		p   []byte
	}{
		"chunk map":           {4096 + 256*64, slices.Repeat([]byte{0xff}, 64)},
		"consumer's position": {128, binary.LittleEndian.AppendUint64(nil, 1<<40)},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			q := vmtest.Start(t, vmtest.Config{})
			g := s.start(q)
			g.reach(StateProtected)
			epoch, before := g.Status().Epoch, mirrors(q)
			load := vmtest.Load(t, q.GuestURI("disk0"), 4)
			g.until("writes arrive", func(st Status) bool { return st.Last > 100 })
			scribble(t, damage.off, damage.p)
			g.until("a new epoch", func(st Status) bool { return st.Epoch > epoch })
			g.reach(StateProtected)
			load.Kill()
			g.equal(q)
			if after := mirrors(q); !q.Alive() || len(before) != 1 || !slices.Equal(before, after) {
				t.Errorf("taps %v became %v", before, after)
			}
			if err := g.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// mirrors names the taps' jobs.
func mirrors(q *vmtest.QEMU) (names []string) {
	var jobs []struct{ Device string }
	q.Must("query-block-jobs", nil, &jobs)
	for _, j := range jobs {
		names = append(names, j.Device)
	}
	return names
}
