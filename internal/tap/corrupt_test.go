package tap

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/rephub/rephub/journal"
)

// TestCorruptEntries: each thing that a producer never writes is found, one by one.
func TestCorruptEntries(t *testing.T) {
	le := binary.LittleEndian
	for name, damage := range map[string]func(r *Ring, e []byte){
		"magic":         func(_ *Ring, e []byte) { e[0] ^= 1 },
		"beyond head":   func(_ *Ring, e []byte) { le.PutUint32(e[24:], 5000); le.PutUint32(e[44:], 5000) },
		"huge":          func(_ *Ring, e []byte) { le.PutUint32(e[24:], 1<<25); le.PutUint32(e[44:], 1<<25) },
		"seq gap":       func(_ *Ring, e []byte) { e[8]++ },
		"seq again":     func(_ *Ring, e []byte) { e[8]-- },
		"control":       func(_ *Ring, e []byte) { e[4] = byte(journal.OpAttach) },
		"skip":          func(_ *Ring, e []byte) { le.PutUint32(e, padMagic) },
		"no such chunk": func(r *Ring, _ []byte) { r.order[0].Store(1 << 20) },
		"head":          func(r *Ring, _ []byte) { r.head.head.Store(1 << 40) },
	} {
		p, c := pair(t, heapRing(t, MinRing), ProducerConfig{})
		for range 2 {
			p.Write(1, 0, make([]byte, 100))
		}
		size := uint64(journal.EntrySize(100))
		at, _ := p.ring.place(size)
		damage(p.ring, p.ring.data[at:][:size])
		for range 3 { // the first entry may be good
			var ok bool
			var run Run
			if run, ok, c.err = c.Next(1); !ok {
				break
			} else if err := c.Release(run); err != nil {
				t.Fatal(err)
			}
		}
		if !errors.Is(c.err, ErrCorrupt) {
			t.Errorf("%s: %v", name, c.err)
		}
	}
}

// TestTime: an entry's time never goes backwards, whatever the clock does.
func TestTime(t *testing.T) {
	now := time.Unix(1000, 0)
	p, c := pair(t, heapRing(t, MinRing), ProducerConfig{Now: func() time.Time { return now }})
	for _, s := range []int64{1000, 1005, 900, 1006} {
		now = time.Unix(s, 0)
		p.Write(1, 0, []byte("x"))
	}
	var got []int64
	for _, e := range takeAll(t, c, 1<<20) {
		got = append(got, e.Wall().Unix())
	}
	if len(got) != 4 || got[1] != 1005 || got[2] != 1005 || got[3] != 1006 {
		t.Fatalf("times %v", got)
	}
}
