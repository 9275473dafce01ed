package rig

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/rephub/rephub/nbd"
)

// Reader reads a disk; *nbd.Client is one.
type Reader interface {
	ReadAt(ctx context.Context, p []byte, off int64) error
}

// VerifyChains checks that disks, NBD URIs in the order of StartChains, are a
// state that the VM could have left by crashing. It returns the newest number
// of each chain on the first disk.
func VerifyChains(ctx context.Context, n int, uris ...string) ([]uint64, error) {
	var disks []Reader
	for _, uri := range uris {
		d, err := nbd.Dial(ctx, uri, nbd.DialOptions{})
		if err != nil {
			return nil, err
		}
		defer d.Close()
		disks = append(disks, d)
	}
	return verifyChains(ctx, n, disks)
}

func verifyChains(ctx context.Context, n int, disks []Reader) ([]uint64, error) {
	firsts := make([]uint64, n)
	for chain := range n {
		var tops []uint64
		for disk, d := range disks {
			top, err := chainTop(ctx, d, chain, disk)
			if err != nil {
				return nil, fmt.Errorf("chain %d on disk %d: %w", chain, disk, err)
			}
			tops = append(tops, top)
		}
		for i := range tops {
			if i > 0 && tops[i] > tops[i-1] || tops[0]-tops[i] > 1 {
				return nil, fmt.Errorf("chain %d has %v on its disks: no VM was ever in that state", chain, tops)
			}
		}
		firsts[chain] = tops[0]
	}
	return firsts, nil
}

// chainTop is the newest number of one chain on one disk, 0 for none, after
// checking that each slot holds what a writer that stopped there has left.
func chainTop(ctx context.Context, d Reader, chain, disk int) (uint64, error) {
	p := make([]byte, chainSlots*chainSlot)
	if err := d.ReadAt(ctx, p, chainOffset(chain, 0)); err != nil {
		return 0, err
	}
	held := make([]uint64, chainSlots)
	var top uint64
	for i := range held {
		n, err := decodeChain(p[i*chainSlot:(i+1)*chainSlot], chain, disk)
		if err != nil {
			return 0, fmt.Errorf("slot %d: %w", i, err)
		}
		held[i] = n
		top = max(top, n)
	}
	for i, n := range held {
		back := (top%chainSlots + chainSlots - uint64(i)) % chainSlots
		want := uint64(0)
		if back < top {
			want = top - back
		}
		if n != want {
			return 0, fmt.Errorf("slot %d holds %d, and with %d as the newest it must hold %d", i, n, top, want)
		}
	}
	return top, nil
}

// decodeChain gives the number in a slot, 0 when it is blank.
func decodeChain(p []byte, chain, disk int) (uint64, error) {
	blank := true
	for _, b := range p {
		if b != 0 {
			blank = false
			break
		}
	}
	if blank {
		return 0, nil
	}
	if crc32.ChecksumIEEE(p[:len(p)-4]) != binary.LittleEndian.Uint32(p[len(p)-4:]) {
		return 0, errors.New("torn: its checksum is wrong")
	}
	c, d := binary.LittleEndian.Uint32(p[8:]), binary.LittleEndian.Uint32(p[12:])
	if binary.LittleEndian.Uint64(p) != chainMagic || c != uint32(chain) || d != uint32(disk) {
		return 0, fmt.Errorf("it belongs to chain %d of disk %d", c, d)
	}
	return binary.LittleEndian.Uint64(p[16:]), nil
}
