package main

import (
	"bytes"
	"io"
	"testing"
)

// disk is a growing file in memory.
type disk struct{ data []byte }

func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(d.data) {
		d.data = append(d.data, make([]byte, need-len(d.data))...)
	}
	return copy(d.data[off:], p), nil
}

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(d.data)) {
		return 0, io.EOF
	}
	return bytes.NewReader(d.data).ReadAt(p, off)
}

func stamped(t *testing.T, upTo uint64) *disk {
	t.Helper()
	d := &disk{}
	buf := make([]byte, slotSize)
	for n := uint64(1); n <= upTo; n++ {
		if err := put(d, buf, 'A', n); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func TestNewest(t *testing.T) {
	for _, n := range []uint64{0, 1, 7, slots - 1, slots, slots + 1, 3*slots + 5} {
		got, err := newest(stamped(t, n), 'A')
		if err != nil || got != n {
			t.Errorf("after %d stamps: newest = %d, %v", n, got, err)
		}
	}
}

func TestNewestFindsDamage(t *testing.T) {
	const top = 2*slots + 10
	for name, spoil := range map[string]func(*disk){
		"lost write": func(d *disk) {
			buf := make([]byte, slotSize)
			_ = put(d, buf, 'A', top-5-slots) // the slot's previous stamp
		},
		"zeroed slot": func(d *disk) { clear(d.data[100*slotSize : 101*slotSize]) },
		"torn slot":   func(d *disk) { d.data[3*slotSize+600] ^= 1 },
		"other disk": func(d *disk) {
			encode(d.data[9*slotSize:10*slotSize], 'B', 2*slots+9)
		},
	} {
		d := stamped(t, top)
		spoil(d)
		if n, err := newest(d, 'A'); err == nil {
			t.Errorf("%s: newest = %d and no error", name, n)
		}
	}
}
