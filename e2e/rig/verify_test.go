package rig

import (
	"context"
	"strings"
	"testing"
)

// image is a disk in memory.
type image []byte

func (m image) ReadAt(_ context.Context, p []byte, off int64) error {
	copy(p, m[off:])
	return nil
}

func (m image) put(chain, disk int, n uint64) {
	encodeChain(m[chainOffset(chain, n):][:chainSlot], chain, disk, n)
}

// disksAt are two disks after one chain wrote a numbers to the first and b to
// the second.
func disksAt(a, b uint64) []Reader {
	var disks []Reader
	for disk, top := range []uint64{a, b} {
		m := make(image, ChainBytes(1))
		for n := uint64(1); n <= top; n++ {
			m.put(0, disk, n)
		}
		disks = append(disks, m)
	}
	return disks
}

func TestVerifyChains(t *testing.T) {
	lost := disksAt(200, 200)
	lost[1].(image).put(0, 1, 190-chainSlots)
	torn := disksAt(9, 9)
	torn[0].(image)[3*chainSlot+100] ^= 1
	swapped := disksAt(9, 9)
	swapped[0], swapped[1] = swapped[1], swapped[0]
	for _, tc := range []struct {
		name  string
		disks []Reader
		want  string // in the error; none when empty
	}{
		{"nothing written", disksAt(0, 0), ""},
		{"equal", disksAt(500, 500), ""},
		{"between two writes", disksAt(65, 64), ""},
		{"second disk ahead", disksAt(64, 65), "no VM was ever"},
		{"second disk behind", disksAt(66, 64), "no VM was ever"},
		{"lost write", lost, "must hold"},
		{"torn slot", torn, "torn"},
		{"disks swapped", swapped, "belongs to"},
	} {
		_, err := verifyChains(context.Background(), 1, tc.disks)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}
