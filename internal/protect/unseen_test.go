package protect

import (
	"bytes"
	"slices"
	"testing"

	"github.com/rephub/rephub/internal/tap"
	"github.com/rephub/rephub/journal"
)

// A hub that was killed after the append and before the release finds writes in
// the ring that the journal has already, maybe in the middle of a run.
func TestUnseen(t *testing.T) {
	var entries [][]byte
	for seq := journal.Seq(10); seq < 16; seq++ {
		entries = append(entries, write(seq, 0, bytes.Repeat([]byte{byte(seq)}, int(seq)*100)))
	}
	for split := 0; split <= len(entries); split++ {
		run := tap.Run{First: 10, Last: 15, Count: len(entries)}
		run.Regions[0] = slices.Concat(entries[:split]...)
		run.Regions[1] = slices.Concat(entries[split:]...)
		if split == 0 {
			run.Regions[0], run.Regions[1] = run.Regions[1], nil
		}
		for appended := journal.Seq(8); appended < 18; appended++ {
			regions, first, err := unseen(run, appended)
			if err != nil {
				t.Fatal(err)
			}
			if appended >= run.Last {
				if regions != nil {
					t.Errorf("the journal has seq %d, and seq %d was taken again", appended, first)
				}
				continue
			}
			skip := max(int(appended)-9, 0)
			if want := journal.Seq(10 + skip); first != want || !bytes.Equal(slices.Concat(regions...), slices.Concat(entries[skip:]...)) {
				t.Errorf("split at %d, the journal has seq %d: taken from %d, want %d", split, appended, first, want)
			}
			if slices.ContainsFunc(regions, func(r []byte) bool { return len(r) == 0 }) {
				t.Error("an empty region")
			}
		}
	}
}
