package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A disk holds a ring of slots. Stamp n goes to slot n mod slots, so that the
// newest stamp tells what every other slot must hold: a write that is missing
// anywhere in the last thousand shows, not only the last one.
const (
	slotSize = 4096 // bytes
	slots    = 1024
	magic    = 0x7265706875622d31
)

// errBlank is the answer for a slot that was never written.
var errBlank = errors.New("blank slot")

// encode fills one slot with stamp n; the rest of the slot repeats it, so that
// a torn slot cannot pass for a whole one.
func encode(p []byte, disk byte, n uint64) {
	for off := 0; off+32 <= len(p); off += 32 {
		binary.LittleEndian.PutUint64(p[off:], magic)
		binary.LittleEndian.PutUint64(p[off+8:], n)
		binary.LittleEndian.PutUint64(p[off+16:], uint64(disk))
		binary.LittleEndian.PutUint64(p[off+24:], 0)
	}
	binary.LittleEndian.PutUint32(p[len(p)-4:], crc32.ChecksumIEEE(p[:len(p)-4]))
}

// decode gives the stamp in a slot, errBlank when it holds zeroes only.
func decode(p []byte, disk byte) (uint64, error) {
	if allZero(p) {
		return 0, errBlank
	}
	if sum := crc32.ChecksumIEEE(p[:len(p)-4]); sum != binary.LittleEndian.Uint32(p[len(p)-4:]) {
		return 0, errors.New("torn slot")
	}
	if m := binary.LittleEndian.Uint64(p); m != magic {
		return 0, fmt.Errorf("magic %#x", m)
	}
	if d := binary.LittleEndian.Uint64(p[16:]); d != uint64(disk) {
		return 0, fmt.Errorf("slot of disk %c on disk %c", byte(d), disk)
	}
	return binary.LittleEndian.Uint64(p[8:]), nil
}

func allZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// put writes stamp n to its slot; it is not durable yet.
func put(w io.WriterAt, buf []byte, disk byte, n uint64) error {
	encode(buf, disk, n)
	_, err := w.WriteAt(buf, int64(n%slots)*slotSize)
	return err
}

// newest reads all slots and gives the newest stamp, having checked that each
// slot holds the stamp that a writer which stopped there has left in it.
func newest(r io.ReaderAt, disk byte) (uint64, error) {
	held := make([]uint64, slots) // 0: blank; stamps begin with 1
	buf := make([]byte, slotSize)
	var top uint64
	for i := range held {
		_, err := r.ReadAt(buf, int64(i)*slotSize)
		if errors.Is(err, io.EOF) {
			clear(buf) // the file ends before this slot: never written
		} else if err != nil {
			return 0, fmt.Errorf("read slot %d: %w", i, err)
		}
		n, err := decode(buf, disk)
		if err != nil && !errors.Is(err, errBlank) {
			return 0, fmt.Errorf("slot %d of disk %c: %w", i, disk, err)
		}
		held[i] = n
		top = max(top, n)
	}
	for i, n := range held {
		if want := expected(top, uint64(i)); n != want {
			return 0, fmt.Errorf("slot %d of disk %c holds stamp %d and not %d, newest is %d", i, disk, n, want, top)
		}
	}
	return top, nil
}

// expected is the newest stamp ≤ top that belongs into a slot, 0 for none.
func expected(top, slot uint64) uint64 {
	back := (top%slots + slots - slot) % slots
	if back >= top { // slot 0 has no stamp 0
		return 0
	}
	return top - back
}
