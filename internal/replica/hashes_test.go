package replica

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/digest"
	"github.com/rephub/rephub/journal"
)

// checkHashes holds the hashes of all volumes, kept or not, to those of the
// model; more than once, so that what was kept is also used.
func (w *world) checkHashes() {
	w.t.Helper()
	if w.r.IntN(3) > 0 {
		w.sync() // else little is durable, and nothing kept
	}
	for id := journal.VolumeID(1); id <= volumes; id++ {
		w.checkHashesOf(id)
	}
}

func (w *world) checkHashesOf(id journal.VolumeID) {
	w.t.Helper()
	h, err := w.s.Hashes(id)
	must(w.t, err)
	w.known += w.keptHashes(h)
	state := w.state(id, w.highest)
	w.compareHashes(h, block.Range{Len: volSize}, state)
	off := w.r.Int64N(volSize/digest.Block) * digest.Block
	w.compareHashes(h, block.Range{Off: off, Len: min(digest.Block*(1+w.r.Int64N(30)), volSize-off)}, state)
}

// keptHashes counts the records of a volume.
func (w *world) keptHashes(h *Hashes) (n int) {
	list := make([]kept, volSize/digest.Chunk)
	h.file.read(h.key, 0, list)
	for _, k := range list {
		if k.ok {
			n++
		}
	}
	return n
}

func (w *world) compareHashes(h *Hashes, r block.Range, state []byte) {
	w.t.Helper()
	state = state[r.Off:r.End()]
	got, err := h.Pieces(context.Background(), r, nil)
	must(w.t, err)
	if want := sumPieces(h.hash, state, r.Off); !slices.Equal(got, want) {
		i := 0
		for got[i] == want[i] {
			i++
		}
		w.t.Fatalf("volume %d: hash of piece %d of %v is %x, want %x; base %d", h.latest.id, i, r, got[i], want[i], w.s.Manifest().Base)
	}
	blocks, err := h.Blocks(context.Background(), r, nil)
	must(w.t, err)
	if want := h.hash.AppendBlocks(nil, state); !slices.Equal(blocks, want) {
		w.t.Fatalf("volume %d: hashes of the blocks of %v differ", h.latest.id, r)
	}
}

// sumPieces hashes the plain way; p is what is at off.
func sumPieces(h *digest.Hasher, p []byte, off int64) (sums []digest.Sum) {
	for len(p) > 0 {
		n := min(int64(len(p)), digest.Chunk-off%digest.Chunk)
		sums = append(sums, h.Join(h.AppendBlocks(nil, p[:n])))
		p, off = p[n:], off+n
	}
	return sums
}

// losePowerUnsynced loses, often, writes that hashes were made with.
func (w *world) losePowerUnsynced() {
	w.sync()
	w.writes(1 + w.r.IntN(4))
	for range 3 { // what is kept is not synced either
		w.checkHashesOf(1 + journal.VolumeID(w.r.IntN(volumes)))
	}
	promised := w.s.Log().Durable()
	w.reopen(w.fs.Crash(w.r.Uint64()))
	if got := w.s.Log().Appended(); got < promised {
		w.t.Fatalf("seq %d was promised, %d is there", promised, got)
	}
	w.forgetLost()
	w.checkHashes()
	w.resync()
}

// TestHashModel: the hashes are right after writes, syncs, retention, restarts
// and power losses, whatever was kept of them. There is little history, so that
// what is kept often outlives the entries that made it wrong.
func TestHashModel(t *testing.T) {
	known := 0
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, 1000+seed)
			w.hashes = true
			for range 60 {
				w.step()
				switch w.r.IntN(9) {
				case 0, 1, 2:
					w.settleAndRetain()
				case 3:
					w.losePowerUnsynced()
				}
				w.checkHashes()
			}
			known += w.known
		})
	}
	if known < 200 {
		t.Errorf("only %d hashes were ever kept", known)
	}
}
